"""What each training example is worth to a model, in one file: a row an example."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.data.encoding import Encoder
from telltune.data.task import load_task, within
from telltune.methods.output_folder import alone, claim, record_recipe
from telltune.models import load_base
from telltune.recipe import SelectionSpec, as_recipe
from telltune.storage import write_json, write_text
from telltune.valuation.fold_models import pvi_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example
    from telltune.recipe import AnyRecipe
    from telltune.valuation.pvi import Pvi

__all__ = ["SCORES", "ExampleScores", "score_examples"]

SCORES = "scores.jsonl"
_REPORT = "scores.json"
_SUSPECTS = 10


@dataclass(frozen=True)
class ExampleScores:
    """What the scores of a data set say.

    Attributes:
        task: Its name.
        examples: How many were scored.
        information: V-information, bits an example.
        information_per_token: Bits a token of the answers.
        negative: Examples whose input made the answer less likely.
        suspects: The ten whose label is most likely wrong, with their scores.
        scored_by: How.
        seconds: `training` and `scoring`, perhaps in an earlier call, and `call`, of this one.
    """

    task: str
    examples: int
    information: float
    information_per_token: float
    negative: int
    suspects: list[dict[str, Any]]
    scored_by: dict[str, Any]
    seconds: dict[str, float]


def score_examples(
    recipe: AnyRecipe,
    *,
    out: str | Path,
    overwrite: bool = False,
    progress: bool = True,
) -> ExampleScores:
    """Score each training example of a recipe's task by pointwise V-information.

    A call that was cut short goes on, when called again, with the fold where it was.

    Args:
        recipe: A file, a dictionary or a `Recipe`. Its `selection` says by what; its training
            settings and `mixture.passes` are those of every fold's two trainings.
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
        base = load_base(recipe.model, recipe.training.precision)
        lengths = Encoder(base.tokenizer).encode(task.train).lengths
        examples = task.train[: within(lengths, recipe.task.max_tokens)]
        record_recipe(out, recipe, overwrite=overwrite)
        pvi = pvi_scores(base, examples, task.anchor, recipe, spec, progress=progress)
        rows = _rows(examples, pvi)
        write_text(out / SCORES, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
        report = ExampleScores(
            task=task.name,
            examples=len(rows),
            information=round(pvi.information, 4),
            information_per_token=round(float(pvi.bits.sum() / pvi.tokens.sum()), 4),
            negative=int((pvi.bits < 0).sum()),
            suspects=[rows[i] for i in pvi.suspects[:_SUSPECTS].tolist()],
            scored_by={"by": spec.by, "folds": spec.folds, "in_context": spec.in_context},
            seconds={
                "training": round(pvi.training_seconds, 1),
                "scoring": round(pvi.scoring_seconds, 1),
                "call": round(time.perf_counter() - began, 1),
            },
        )
        write_json(out / _REPORT, asdict(report))
        return report


def _rows(examples: Sequence[Example], pvi: Pvi) -> list[dict[str, Any]]:
    rank = np.empty(len(examples), np.int64)
    rank[pvi.suspects] = np.arange(len(examples))
    return [
        {
            "origin": example.origin,
            "prompt": example.prompt,
            "completion": example.completion,
            "pvi": round(float(pvi.bits[i]), 4),
            "pvi_per_token": round(float(pvi.bits_per_token[i]), 4),
            "bits": round(float(pvi.with_input[i]), 4),
            "bits_without_input": round(float(pvi.without_input[i]), 4),
            "tokens": int(pvi.tokens[i]),
            "fold": int(pvi.fold[i]),
            "suspicion_rank": int(rank[i]) + 1,
        }
        for i, example in enumerate(examples)
    ]
