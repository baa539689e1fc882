"""Compare fast classifiers that know the names of labels with those that do not.

In each of eight draws, half of a task's training inputs is the pool. Labeled examples are drawn
from it at random, none to sixty, and its other inputs are unlabeled. Writes names.json and prints
the table of docs/guides/levers.md.

    python benchmarks/leverage/names.py    # after new_tasks.py; a quarter of an hour
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pick import TASKS
from scipy import stats

from telltune.classifiers.features import TextKind, learn_features, prompt_text
from telltune.classifiers.heads import Head, fit_head
from telltune.data.task import TaskData, load_split
from telltune.recipe import recipe_from_dict

CLASSIFIERS: tuple[tuple[str, TextKind, Head], ...] = (
    ("encoder_centroid", "encoder", "centroid"),
    ("encoder_em", "encoder", "em"),
    ("tfidf_em", "tfidf", "em"),
    ("combined_em", "combined", "em"),
)
SIZES, DRAWS = (0, 20, 60), 8


def main() -> None:
    rows: list[dict[str, Any]] = []
    for name, data in TASKS.items():
        recipe = recipe_from_dict({"model": "embedded", "task": data})
        train, test = load_split(recipe, "train"), load_split(recipe, "test")
        labels = {example.completion: example.completion for example in train}
        named = TaskData("", (), (), None, (), labels=labels).named_labels
        questions = [prompt_text(example) for example in test]
        truth = np.array([example.completion for example in test])
        for size in SIZES:
            for draw in range(DRAWS):
                rng = np.random.default_rng(draw)
                pool = [train[i] for i in rng.permutation(len(train))[: len(train) // 2]]
                for known in (pool[:size], [*pool[:size], *named]):
                    if not known:
                        continue
                    names = len(known) > size
                    row = {"task": name, "labels": size, "draw": draw, "names": names}
                    answers = [example.completion for example in known]
                    texts = [prompt_text(example) for example in (*known, *pool[size:])]
                    for classifier, kind, head in CLASSIFIERS:
                        features = learn_features(kind, texts)
                        vectors, count = features(texts), len(known)
                        scorer = fit_head(head, kind, vectors[:count], answers, vectors[count:])
                        right = np.array(scorer.best(features(questions))) == truth
                        row[classifier] = round(100 * float(right.mean()), 2)
                    rows.append(row)
        print_table([row for row in rows if row["task"] == name])
    lines = ",\n".join(map(json.dumps, rows))
    Path(__file__).with_suffix(".json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def print_table(rows: list[dict[str, Any]]) -> None:
    for size in SIZES:
        for name, _, _ in CLASSIFIERS:
            without, with_names = (
                np.array([row[name] for row in rows if (row["labels"], row["names"]) == (size, on)])
                for on in (False, True)
            )
            cells = ["", f"{with_names.mean():.1f}", ""]
            if len(without):
                gain = with_names - without
                low, high = stats.t.interval(0.95, len(gain) - 1, gain.mean(), stats.sem(gain))
                cells[::2] = (
                    f"{without.mean():.1f}",
                    f"{gain.mean():+.1f} ({low:+.1f} to {high:+.1f})",
                )
            print(f"| {rows[0]['task']} | {size} | `{name}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
