"""Scores of the value of each training example to a model, written to one file."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.data.given import given_recipe
from telltune.data.task import load_task
from telltune.data.writing import write_rows
from telltune.fitting.output_folder import check_resumable, lock_folder, record_recipe
from telltune.fitting.selection import examples_in_budget
from telltune.models import load_base
from telltune.recipe import AnyRecipe, SelectionSpec
from telltune.storage import write_json
from telltune.training.progress import phase
from telltune.valuation.scores import Scores, score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example

SCORES = "scores.jsonl"
_REPORT = "scores.json"
_SHOWN = 10


@dataclass(frozen=True)
class ExampleScores:
    """Summary of the scores of a data set.

    Attributes:
        task: Name of the task.
        by: Scoring method.
        examples: Number of scored examples.
        told: Aggregates over all examples. For PVI: `information`, the V-information in bits per
            example; `information_per_token`; `negative`, the number of examples whose input made
            the answer less likely. For memory: the mean `recall`, and the number of examples at
            each `level_0` to `level_4`.
        hardest: The ten examples with the lowest scores, which may have wrong labels.
        seconds: Seconds by phase, possibly of an earlier call; `call` is the time of this call.
    """

    task: str
    by: str
    examples: int
    told: dict[str, float]
    hardest: list[dict[str, Any]]
    seconds: dict[str, float]


def score_examples(
    recipe: AnyRecipe, *, out: str | Path, overwrite: bool = False, progress: bool = True
) -> ExampleScores:
    """Score each training example of a recipe's task.

    After an interruption, a repeated call resumes with the unfinished fold or template.

    Args:
        recipe: Recipe file, dictionary or `Recipe`. Its `selection` sets the scoring method. PVI
            uses its training settings and `mixture.passes` for both trainings of every fold.
        out: Output folder for scores.jsonl, one row per example in the order of the seed's draw.
        overwrite: Start over if the folder holds scores of another recipe.
        progress: Whether to show progress bars.

    Raises:
        RecipeError: All weights are trained, so there is no adapter to switch off.
        DataError: There are too few examples for the folds, or only one fold contains a label.
        StorageError: The folder holds other files or another run.

    Examples:
        >>> scores = telltune.score_examples("recipes/demo.yaml", out="runs/scores", progress=False)
        >>> scores.by
        'pvi'
    """
    began = time.perf_counter()
    recipe, out = given_recipe(recipe), Path(out)
    spec = recipe.selection or SelectionSpec()
    with lock_folder(out):
        check_resumable(out, recipe, overwrite=overwrite)
        task = load_task(recipe)
        with phase("loading the model", shown=progress):
            base = load_base(recipe.model, recipe.training.precision)
        examples = examples_in_budget(task, base, recipe)
        record_recipe(out, recipe, overwrite=overwrite)
        found = score(base, examples, task.anchor, recipe, spec, progress=progress)
        rows = _rows(examples, found)
        write_rows(out / SCORES, rows)
        seconds = found.seconds | {"call": time.perf_counter() - began}
        report = ExampleScores(
            task=task.name,
            by=spec.by,
            examples=len(rows),
            told={name: round(value, 4) for name, value in found.told.items()},
            hardest=[rows[i] for i in found.hardest_first[:_SHOWN].tolist()],
            seconds={phase: round(spent, 1) for phase, spent in seconds.items()},
        )
        write_json(out / _REPORT, asdict(report))
        return report


def _rows(examples: Sequence[Example], scores: Scores) -> list[dict[str, Any]]:
    rank = np.empty(len(examples), np.int64)
    rank[scores.hardest_first] = np.arange(1, len(examples) + 1)
    columns = {name: np.round(values, 4).tolist() for name, values in scores.columns.items()}
    return [
        {
            "origin": example.origin,
            "prompt": example.prompt,
            "completion": example.completion,
            **{name: values[i] for name, values in columns.items()},
            "hardness_rank": int(rank[i]),
        }
        for i, example in enumerate(examples)
    ]
