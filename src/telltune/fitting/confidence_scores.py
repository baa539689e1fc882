"""Confidence in each task example, from a column of the data or from PVI."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from telltune.errors import RecipeError
from telltune.fitting.selection import examples_in_budget
from telltune.recipe import SelectionSpec
from telltune.valuation.fold_models import pvi_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from telltune.data.task import TaskData
    from telltune.models import LoadedModel
    from telltune.recipe import ConfidenceSpec, Recipe

__all__ = ["add_confidence_scores", "from_bits"]


def add_confidence_scores(
    task: TaskData,
    base: LoadedModel,
    recipe: Recipe,
    spec: ConfidenceSpec,
    *,
    anchored: bool,
    progress: bool = False,
) -> tuple[NDArray[np.float64], float]:
    """Return the confidence in each training example within the recipe's budget.

    Args:
        task: Task with the training examples.
        base: Base model without an adapter; unchanged on return.
        recipe: Recipe of the run.
        spec: Source of the confidences.
        anchored: Whether to add the anchor to the examples.
        progress: Whether to show progress bars.

    Returns:
        Confidences in (0, 1], (examples,); and the time that they took in seconds.

    Raises:
        RecipeError: No data set names its confidence column; or see `pvi_scores`.
        DataError: See `pvi_scores`.
    """
    examples = examples_in_budget(task, base, recipe)
    if spec.by == "column":
        named = any(d.columns and d.columns.confidence for d in recipe.task.train or ())
        # Made examples carry their own confidence, so no column is needed.
        if not named and recipe.synthesis is None and not recipe.levers:
            raise RecipeError(
                "confidence.by: column, but no data set of `task.train` names that column; "
                "set `columns: {prompt: ..., completion: ..., confidence: ...}`."
            )
        return np.array([example.confidence for example in examples]), 0.0
    chosen = recipe.selection if recipe.selection and recipe.selection.by == "pvi" else None
    anchor = task.anchor if anchored else None
    how = chosen or SelectionSpec()
    found = pvi_scores(base, examples, anchor, recipe, how, progress=progress)
    # If the selection uses the same scores, it already counts their time.
    seconds = 0.0 if chosen else found.training_seconds + found.scoring_seconds
    return from_bits(found.bits), seconds


def from_bits(pvi: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return confidences 1/2 + 1/2 · g_x/(g_x + g∅) from PVI = log2 g_x - log2 g∅."""
    # The odds are computed from |PVI|, so that no power of two overflows.
    odds = np.exp(-np.abs(pvi) * math.log(2))
    return np.asarray(0.5 + 0.5 * np.where(pvi >= 0, 1, odds) / (1 + odds), np.float64)
