"""Compare fast classifiers on randomly drawn and on picked labeled examples.

In each of eight draws, half of a task's training inputs is the pool. Examples are drawn from it at
random, or picked by the rule of `tell pick`, which uses no label. The other inputs of the pool are
unlabeled. Writes pick.json and prints the table of docs/guides/levers.md.

    python benchmarks/leverage/pick.py     # after new_tasks.py, for the home tasks; two minutes
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from telltune.classifiers.features import learn_features, prompt_text
from telltune.classifiers.heads import fit_head
from telltune.classifiers.picking import cover
from telltune.data.task import load_split
from telltune.recipe import recipe_from_dict
from telltune.valuation.embeddings import embed

HERE = Path(__file__).parent
HOME = HERE.parents[1] / "runs" / "new_tasks" / "home_intent"
TASKS: dict[str, dict[str, Any]] = {
    "medical_specialty": {"embedded": "medical_specialty"},
    "home_intent": {split: str(HOME / f"{split}.jsonl") for split in ("train", "test")},
    "answer_kind": {"embedded": "answer_kind"},
}
CLASSIFIERS = (
    ("encoder_em", "encoder", "em"),
    ("encoder_linear", "encoder", "linear"),
    ("tfidf_linear", "tfidf", "linear"),
)
SIZES, DRAWS = (20, 60, 120), 8


def main() -> None:
    rows: list[dict[str, Any]] = []
    for name, data in TASKS.items():
        recipe = recipe_from_dict({"model": "embedded", "task": data})
        train, test = load_split(recipe, "train"), load_split(recipe, "test")
        texts = [prompt_text(example) for example in train]
        questions = [prompt_text(example) for example in test]
        vectors, asked = embed(texts), embed(questions)
        truth = np.array([example.completion for example in test])
        for size in SIZES:
            for draw in range(DRAWS):
                rng = np.random.default_rng(draw)
                pool = rng.permutation(len(train))[: len(train) // 2]
                ways = {"random": pool[:size], "picked": pool[cover(vectors[pool], size)[0]]}
                for way, chosen in ways.items():
                    row = {"task": name, "labels": size, "draw": draw, "way": way}
                    answers = [train[i].completion for i in chosen]
                    row["labels_seen"] = len(set(answers))
                    unlabeled = vectors[np.setdiff1d(pool, chosen)]
                    tfidf = learn_features("tfidf", [texts[i] for i in chosen])
                    for classifier, kind, head in CLASSIFIERS:
                        encoded = kind == "encoder"
                        known = vectors[chosen] if encoded else tfidf([texts[i] for i in chosen])
                        scorer = fit_head(head, kind, known, answers, unlabeled)
                        found = scorer.scores(asked if encoded else tfidf(questions)).argmax(axis=1)
                        right = np.array(scorer.answers)[found] == truth
                        row[classifier] = round(100 * float(right.mean()), 2)
                    rows.append(row)
        print_table([row for row in rows if row["task"] == name])
    lines = ",\n".join(map(json.dumps, rows))
    (HERE / "pick.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def print_table(rows: list[dict[str, Any]]) -> None:
    for size in SIZES:
        for name, _, _ in CLASSIFIERS:
            random, picked = (
                np.array([r[name] for r in rows if (r["labels"], r["way"]) == (size, way)])
                for way in ("random", "picked")
            )
            gain = picked - random
            low, high = stats.t.interval(0.95, len(gain) - 1, gain.mean(), stats.sem(gain))
            print(
                f"| {rows[0]['task']} | {size} | `{name}` | {random.mean():.1f} | "
                f"{picked.mean():.1f} | {gain.mean():+.1f} ({low:+.1f} to {high:+.1f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
