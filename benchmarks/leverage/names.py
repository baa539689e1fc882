"""Compare fast classifiers that know nothing of the labels, their names, or their meaning too.

In each of eight draws, half of a task's training inputs is the pool. Labeled examples are drawn
from it at random, none to sixty, and its other inputs are unlabeled. Of a label, a classifier knows
nothing more, its name, or its name and the description in leverage.yaml. Writes names.json and
prints the tables of docs/guides/levers.md.

    python benchmarks/leverage/names.py    # after new_tasks.py; half an hour
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from pick import TASKS
from scipy import stats

from telltune.classifiers.features import TextKind, learn_features, prompt_text
from telltune.classifiers.heads import Head, fit_head
from telltune.data.task import TaskData, load_split
from telltune.recipe import recipe_from_dict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from telltune.data.examples import Example

CLASSIFIERS: tuple[tuple[str, TextKind, Head], ...] = (
    ("encoder_centroid", "encoder", "centroid"),
    ("encoder_em", "encoder", "em"),
    ("tfidf_em", "tfidf", "em"),
    ("combined_em", "combined", "em"),
)
SIZES, DRAWS = (0, 20, 60), 8
KNOWN = ("nothing", "names", "descriptions")


def main() -> None:
    rows: list[dict[str, Any]] = []
    described = descriptions()
    for name, data in TASKS.items():
        recipe = recipe_from_dict({"model": "embedded", "task": data})
        train, test = load_split(recipe, "train"), load_split(recipe, "test")
        labels = {example.completion: example.completion for example in train}
        listed = ({}, labels, {label: described[name][label] for label in labels})
        questions = [prompt_text(example) for example in test]
        truth = np.array([example.completion for example in test])
        for size in SIZES:
            for draw in range(DRAWS):
                rng = np.random.default_rng(draw)
                pool = [train[i] for i in rng.permutation(len(train))[: len(train) // 2]]
                for known, words in zip(KNOWN, listed, strict=True):
                    read = TaskData("", (), (), None, (), labels=words).named_labels
                    examples = [*pool[:size], *read]
                    if not examples:
                        continue
                    row = {"task": name, "labels": size, "draw": draw, "known": known}
                    rows.append(row | scores(examples, pool[size:], questions, truth))
        print_tables([row for row in rows if row["task"] == name])
    lines = ",\n".join(map(json.dumps, rows))
    Path(__file__).with_suffix(".json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def descriptions() -> dict[str, dict[str, str]]:
    """Return the words about each label that the study lists, by task."""
    study = yaml.safe_load((Path(__file__).parent / "leverage.yaml").read_text())
    return {
        block["tasks"][0]: method["set"]["task.labels"]
        for block in study["more"]
        for method in block["methods"]
        if "+ descriptions" in str(method)
    }


def scores(
    known: list[Example], others: list[Example], questions: list[str], truth: NDArray[np.str_]
) -> dict[str, float]:
    """Return the accuracy of each classifier after it has learned from the known examples."""
    found = {}
    answers = [example.completion for example in known]
    texts = [prompt_text(example) for example in (*known, *others)]
    for classifier, kind, head in CLASSIFIERS:
        features = learn_features(kind, texts)
        vectors, count = features(texts), len(known)
        scorer = fit_head(head, kind, vectors[:count], answers, vectors[count:])
        right = np.array(scorer.best(features(questions))) == truth
        found[classifier] = round(100 * float(right.mean()), 2)
    return found


def print_tables(rows: list[dict[str, Any]]) -> None:
    for less, more in pairwise(KNOWN):
        print(f"\n| task | labeled examples | classifier | {less} | {more} | difference |")
        for size in SIZES:
            for name, _, _ in CLASSIFIERS:
                without, having = (
                    np.array([r[name] for r in rows if (r["labels"], r["known"]) == (size, known)])
                    for known in (less, more)
                )
                cells = ["-", f"{having.mean():.1f}", "-"]
                if len(without):
                    cells[0] = f"{without.mean():.1f}"
                    cells[2] = difference(having - without)
                task = rows[0]["task"]
                print(f"| {task} | {size} | `{name}` | {' | '.join(cells)} |", flush=True)


def difference(gain: NDArray[np.float64]) -> str:
    if not gain.std():  # Nothing is drawn if class means know the labels only.
        return f"{gain.mean():+.1f}"
    low, high = stats.t.interval(0.95, len(gain) - 1, gain.mean(), stats.sem(gain))
    return f"{gain.mean():+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    main()
