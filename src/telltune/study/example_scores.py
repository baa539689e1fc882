"""What each training example is worth to a model, in one file: a row an example."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.data.task import load_task
from telltune.methods.output_folder import alone, claim, record_recipe
from telltune.methods.selection import usable
from telltune.models import load_base
from telltune.recipe import SelectionSpec, as_recipe
from telltune.storage import write_json, write_text
from telltune.training.progress import phase
from telltune.valuation.scores import score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example
    from telltune.recipe import AnyRecipe
    from telltune.valuation.scores import Scores

__all__ = ["SCORES", "ExampleScores", "score_examples"]

SCORES = "scores.jsonl"
_REPORT = "scores.json"
_SHOWN = 10


@dataclass(frozen=True)
class ExampleScores:
    """What the scores of a data set say.

    Attributes:
        task: Its name.
        by: What its examples were scored by.
        examples: How many were scored.
        told: What is known of all of them. Of PVI: `information`, the V-information in bits an
            example; `information_per_token`; `negative`, examples whose input made the answer less
            likely. Of memory: the mean `recall`, and how many are of each `level_0` to `level_4`.
        hardest: The ten with the lowest scores, wrong labels among them.
        seconds: By phase, perhaps of an earlier call, and `call`, of this one.
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

    A call that was cut short goes on, when called again, with the fold or template where it was.

    Args:
        recipe: A file, a dictionary or a `Recipe`. Its `selection` says by what; by PVI, its
            training settings and `mixture.passes` are those of every fold's two trainings.
        out: Where scores.jsonl goes, a row an example in the order of the seed's draw.
        overwrite: Begin anew where scores that came about in another way are.
        progress: Show bars.

    Raises:
        RecipeError: Every weight is trained, so there is no adapter to switch.
        DataError: Too few examples for so many folds, or a label that one fold holds alone.
        StorageError: The folder holds something else.
    """
    began = time.perf_counter()
    recipe, out = as_recipe(recipe), Path(out)
    spec = recipe.selection or SelectionSpec()
    with alone(out):
        claim(out, recipe, overwrite=overwrite)
        task = load_task(recipe)
        with phase("loading the model", shown=progress):
            base = load_base(recipe.model, recipe.training.precision)
        examples = usable(task, base, recipe)
        record_recipe(out, recipe, overwrite=overwrite)
        found = score(base, examples, task.anchor, recipe, spec, progress=progress)
        rows = _rows(examples, found)
        write_text(out / SCORES, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
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
