"""Write financial tasks, made from the sentences of the embedded FiQA answers.

    python benchmarks/financial.py runs/financial   # a second
    tell study benchmarks/financial.yaml --out runs/financial/out

The target names the word that is missing in a sentence, of eight words for money matters. Four
auxiliary tasks of different sizes are sources of the general data: does a sentence follow, restore
case and punctuation, list the amounts, write the question. Target and auxiliary tasks use answers
to different questions. Labels come from the text itself, so that nobody had to annotate it.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np

from telltune.data.embedded.rows import source_rows

WORDS = ("tax", "bank", "stock", "credit", "loan", "insurance", "income", "interest")
MOST_PER_WORD = 60
SHARES = {"auxiliary": 0.5, "train": 0.7}
"""Share of the questions up to which answers belong to a part; the rest is for testing."""
SIZES = {"follows": 1200, "restore": 600, "question": 250, "amounts": 120}
"""Number of examples of each auxiliary task."""
AMOUNT = re.compile(r"\$\s?\d[\d,]*(?:\.\d+)?(?:\s?(?:k|million|billion)\b)?")


def main() -> None:
    """Write the files to the path on the command line."""
    root = Path(sys.argv[1])
    rows = [(row.text("question"), sentences(row.text("answer"))) for row in source_rows(FIQA)]
    order = np.random.default_rng(0).permutation(len(rows))
    until = [int(share * len(rows)) for share in SHARES.values()]
    parts = [[rows[i] for i in part] for part in np.split(order, until)]
    for name, made in auxiliary(parts[0]).items():
        write(root / f"{name}.jsonl", made[: SIZES[name]])
    for name, part in zip(("train", "test"), parts[1:], strict=True):
        write(root / f"target-{name}.jsonl", missing_words(part))


FIQA = "Fiqa/test.jsonl"


def sentences(text: str) -> list[str]:
    """Return the sentences of 6 to 40 words."""
    found = re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(text.replace('""', '"').split()))
    return [one for one in found if 6 <= len(one.split()) <= 40]


def auxiliary(part: list[tuple[str, list[str]]]) -> dict[str, list[dict[str, str]]]:
    """Return the examples of each auxiliary task, in a random order."""
    draws = np.random.default_rng(1)
    all_sentences = [one for _, found in part for one in found]
    made: dict[str, list[dict[str, str]]] = {name: [] for name in SIZES}
    for question, found in part:
        for first, second in pairwise(found):
            follows = bool(draws.integers(2))
            other = all_sentences[draws.integers(len(all_sentences))]
            asked = f"Does the second sentence follow the first?\n1. {first}\n2. "
            row = {"prompt": asked + (second if follows else other)}
            made["follows"].append(row | {"completion": "yes" if follows else "no"})
        for one in found:
            plain = re.sub(r"[^\w\s$%]", "", one).lower()
            asked = f"Restore case and punctuation: {plain}"
            made["restore"].append({"prompt": asked, "completion": one})
            if amounts := AMOUNT.findall(one):
                asked = f"List the amounts of money, separated by semicolons: {one}"
                made["amounts"].append({"prompt": asked, "completion": "; ".join(amounts)})
        if found and len(question.split()) <= 25:
            asked = f"Write the question that this answers: {' '.join(found[:2])}"
            made["question"].append({"prompt": asked, "completion": question})
    return {name: [rows[i] for i in draws.permutation(len(rows))] for name, rows in made.items()}


def missing_words(part: list[tuple[str, list[str]]]) -> list[dict[str, str]]:
    """Return sentences that contain exactly one of the words, without it."""
    draws, made, count = np.random.default_rng(2), [], Counter[str]()
    found = [one for _, sentences_ in part for one in sentences_]
    for i in draws.permutation(len(found)):
        hits = re.findall(rf"\b({'|'.join(WORDS)})(?:e?s)?\b", found[i], re.IGNORECASE)
        if len(hits) == 1 and count[hits[0].lower()] < MOST_PER_WORD:
            word = hits[0].lower()
            count[word] += 1
            shown = re.sub(rf"\b{word}(?:e?s)?\b", "___", found[i], flags=re.IGNORECASE)
            made.append({"prompt": shown, "completion": word})
    return made


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """Write rows, and say how many there are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
