"""Score the base model without training: examples in the prompt, or a linear probe.

Prints the last table of docs/guides/baselines.md: the mean over draws of the labeled examples, on
the first 100 test items of two embedded tasks.

    python benchmarks/in_context.py
"""

from __future__ import annotations

import argparse
import gc
import time
from dataclasses import fields
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING, Any

from telltune.data.task import load_split, load_task
from telltune.evaluation.score import evaluate_predictor
from telltune.fitting.predictor import Predictor
from telltune.fitting.protocol import Settings
from telltune.methods.registry import get_method
from telltune.models import load_base
from telltune.recipe import as_recipe

if TYPE_CHECKING:
    from torch import Tensor

TASKS = ("medical_specialty", "answer_kind")
LIKELIHOOD = {"evaluation": {"answers": "likelihood"}}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "few_shot": ("few_shot", {}),
    "few_shot_nearest": ("few_shot_nearest", {}),
    "few_shot, likelihood": ("few_shot", LIKELIHOOD),
    "few_shot_calibrated": ("few_shot_calibrated", {}),
    "few_shot, batch calibration": ("few_shot", LIKELIHOOD),
    "probe": ("probe", {}),
    "encoder_linear": ("encoder_linear", {}),
    "tfidf_linear": ("tfidf_linear", {}),
}


class BatchCalibrated(Predictor):
    """Predictor that subtracts each label's mean log-likelihood (arXiv 2309.17249)."""

    def _label_nll(self, *given: Any) -> Tensor:
        nll = super()._label_nll(*given)
        return nll - nll.mean(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 60])
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    given = parser.parse_args()
    base = load_base(as_recipe({"task": TASKS[0]}).model)
    print("| method | task | labels | accuracy | of each draw | seconds |")
    print("|---|---|---:|---:|---|---:|")
    for way, name, size in product(given.ways, given.tasks, given.sizes):
        method, keys = WAYS[way]
        began, scores = time.perf_counter(), []
        for seed in range(given.draws):
            task_keys = {"embedded": name, "max_examples": size}
            recipe = as_recipe({"method": method, "task": task_keys, "seed": seed} | keys)
            task, test = load_task(recipe), load_split(recipe, "test")[: given.items]
            predictor = get_method(method).run(task, None, base, Settings(recipe))
            if way == "few_shot, batch calibration":
                known = {f.name: getattr(predictor, f.name) for f in fields(predictor) if f.init}
                predictor = BatchCalibrated(**known)
            gc.collect()  # the previous generator has a copy of the weights
            scores.append(evaluate_predictor(predictor, test, ("accuracy",)).headline[1].score)
        seconds = (time.perf_counter() - began) / given.draws
        each = ", ".join(f"{score:.1f}" for score in scores)
        print(
            f"| {way} | {name} | {size} | {fmean(scores):.1f} | {each} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
