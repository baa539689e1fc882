"""Measure tokens, seconds and accuracy of several inputs per prompt.

    python benchmarks/over_prompt.py base                # 3 minutes on two cores
    python benchmarks/over_prompt.py trained --seed 0    # 12 minutes on one core

Existing rows are kept. The embedded model answers 100 test items of two embedded tasks after the
anchor: `base` with one solved group of training examples in the prompt, `trained` with an adapter
that learned from groups of up to 20 of 100 examples. Settings are the number of inputs per prompt,
the form of replies (lines or JSON), and the grouping of inputs (as given, shuffled, or by
similarity). `first` and `last` are the accuracies in the first and the second half of the groups.
For comparison, `one` is an adapter that learned the same examples one at a time (`sft_anchor`).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from machine import describe
from telltune.cli.console import print_table
from telltune.data.task import load_split, load_task
from telltune.evaluation.score import evaluate_predictor
from telltune.fitting.group_predictor import GroupPredictor, Usage
from telltune.fitting.protocol import Settings
from telltune.methods.registry import get_method
from telltune.models import load_base
from telltune.recipe import OverPromptSpec, recipe_from_dict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from telltune.fitting.predictor import Predictor
    from telltune.recipe import Recipe

RESULTS = Path(__file__).with_suffix(".json")
TASKS = ("answer_kind", "medical_specialty")
ITEMS = 100
EXAMPLES = 100
LARGEST = 20
SETTINGS: dict[str, tuple[tuple[int, str, str], ...]] = {
    "base": (
        *((n, "lines", "given") for n in (1, 2, 5, 10, 20)),
        (5, "json", "given"),
        (10, "json", "given"),
        (10, "lines", "shuffled"),
        (10, "lines", "topic"),
    ),
    "trained": (
        *((n, "lines", "given") for n in (1, 2, 5, 10, 20)),
        (10, "lines", "shuffled"),
        (10, "lines", "topic"),
    ),
}


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=SETTINGS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    for task in TASKS:
        done = [row for row in found["rows"] if is_of(row, given.model, task, given.seed)]
        for row in measured(given.model, task, given.seed, done):
            found["rows"].append({"model": given.model, "task": task, "seed": given.seed} | row)
            found["machine"] = describe()
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    shown = [
        (
            row["task"],
            f"{row['inputs']}, {row['answers']}, {row['order']}",
            str(row.get("seed", 0)),
            f"{row['accuracy']:.0f}",
            f"{row['first']:.0f}, {row['last']:.0f}"
            if row["inputs"] > 1 and "first" in row
            else "",
            str(row.get("input_tokens", "")),
            str(row.get("output_tokens", "")),
            f"{row['seconds']:.1f}",
            f"{row['retried']}, {row['halved']}, {row['unread']}" if "retried" in row else "",
        )
        for row in found["rows"]
        if row.get("model", "base") == given.model
    ]
    columns = ("task", "inputs", "seed", "right, %", "first, last", "read", "written", "s")
    print_table(f"{ITEMS} items, {given.model}", (*columns, "again, half, none"), shown)


def is_of(row: dict[str, Any], model: str, task: str, seed: int) -> bool:
    """Return whether a row belongs to a run; the oldest rows are of the base with seed 0."""
    own = (row.get("model", "base"), row["task"], row.get("seed", 0))
    return own == (model, task, seed)


def measured(
    model: str, task: str, seed: int, done: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of all settings that are not done."""
    known = {(row["inputs"], row["answers"], row["order"]) for row in done}
    left = [setting for setting in SETTINGS[model] if setting not in known]
    if model == "trained" and (1, "lines", "one at a time") not in known:
        recipe, method = recipe_of(task, seed), get_method("sft_anchor")
        base = load_base(recipe.model)
        with method.run(load_task(recipe), None, base, Settings(recipe)) as predictor:
            spent = {"trained_tokens": predictor.cost.trained_tokens}
            yield (
                {"inputs": 1, "answers": "lines", "order": "one at a time"}
                | spent
                | score(predictor, recipe, 1)
            )
    if not left:
        return
    recipe = recipe_of(task, seed)
    method = get_method("over_prompt" if model == "base" else "sft_over_prompt")
    base, data = load_base(recipe.model), load_task(recipe)
    if model == "base":
        for inputs, answers, order in left:
            spec = OverPromptSpec(inputs=inputs, answers=answers, order=order)
            changed = recipe.model_copy(update={"over_prompt": spec})
            predictor = method.run(data, None, base, Settings(changed))
            yield spec.model_dump(exclude={"shots"}) | score(predictor, recipe, inputs)
        return
    with method.run(data, None, base, Settings(recipe)) as predictor:
        assert isinstance(predictor, GroupPredictor)
        for inputs, answers, order in left:
            spec = OverPromptSpec(inputs=inputs, answers=answers, order=order)
            asked = replace(predictor, spec=spec, usage=Usage())
            spent = {"trained_tokens": predictor.cost.trained_tokens}
            yield spec.model_dump(exclude={"shots"}) | spent | score(asked, recipe, inputs)


def recipe_of(task: str, seed: int) -> Recipe:
    """Return the recipe of a task; the adapter learns groups of up to `LARGEST` inputs."""
    values = {
        "task": {"embedded": task, "max_examples": EXAMPLES},
        "over_prompt": {"inputs": LARGEST},
        "mixture": {"passes": 3},
        "lora": {"dropout": 0},
        "training": {"learning_rate": 1e-3, "micro_batch_tokens": 4096, "max_length": 2048},
        "evaluation": {"max_items": ITEMS},
        "seed": seed,
    }
    return recipe_from_dict(values)


def score(predictor: Predictor, recipe: Recipe, inputs: int) -> dict[str, Any]:
    """Return the scores and costs of one setting."""
    items = load_split(recipe, "test")[:ITEMS]
    began = time.perf_counter()
    evaluation = evaluate_predictor(predictor, items, ["accuracy"])
    seconds = round(time.perf_counter() - began, 2)
    right = np.array(evaluation.per_item["accuracy"])  # in percent
    place = np.arange(len(items)) % inputs
    found = {"accuracy": evaluation.headline[1].score, "seconds": seconds}
    if isinstance(predictor, GroupPredictor):
        if inputs > 1 and predictor.spec.order == "given":
            early = place < inputs / 2
            found |= {"first": float(right[early].mean()), "last": float(right[~early].mean())}
        found |= asdict(predictor.usage)
    return found


if __name__ == "__main__":
    main()
