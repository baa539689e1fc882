"""Measure fast baselines on the embedded tasks, over eight draws of the labeled examples.

Prints the table of docs/guides/baselines.md. The vectors of a text are computed once.

    python benchmarks/baselines.py
"""

from __future__ import annotations

import argparse
from itertools import product
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.classifiers.features import EncoderFeatures
from telltune.data.task import load_split, load_task
from telltune.evaluation.score import evaluate_predictor
from telltune.fitting.protocol import Settings
from telltune.methods.registry import get_method
from telltune.models import load_base
from telltune.recipe import as_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

LABELS = ("medical_specialty", "answer_kind", "explicit_language")
OTHERS = ("mention_json", "restore_text", "equation")
METHODS = (
    *("tfidf_linear", "tfidf_em", "encoder_centroid", "encoder_linear", "encoder_em"),
    "knn",
)
VECTORS: dict[str, Any] = {}
encode = EncoderFeatures.__call__


def remembered(features: EncoderFeatures, texts: Sequence[str]) -> Any:
    """Embed the texts that are not embedded yet."""
    new = [text for text in dict.fromkeys(texts) if text not in VECTORS]
    if new:
        VECTORS.update(zip(new, encode(features, new), strict=True))
    return np.stack([VECTORS[text] for text in texts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 60, 200])
    given = parser.parse_args()
    EncoderFeatures.__call__ = remembered  # type: ignore[method-assign]
    base = load_base(as_recipe({"task": LABELS[0]}).model)
    print("| task | metric | labels | " + " | ".join(METHODS) + " |")
    print("|---|---|---:|" + "---:|" * len(METHODS))
    for name, size in product((*LABELS, *OTHERS), given.sizes):
        told, metric = [], ""
        for method in METHODS:
            if name in OTHERS and method != "knn":
                told.append("-")
                continue
            scores = []
            for seed in range(given.draws):
                keys = {"embedded": name, "max_examples": size, "unlabeled": "rest"}
                recipe = as_recipe({"method": method, "task": keys, "seed": seed})
                task, test = load_task(recipe), load_split(recipe, "test")
                predictor = get_method(method).run(task, None, base, Settings(recipe))
                metric, interval = evaluate_predictor(predictor, test, task.metrics).headline
                scores.append(interval.score)
            told.append(f"{fmean(scores):.1f} ({stdev(scores):.1f})")
        print(f"| {name} | {metric} | {size} | {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
