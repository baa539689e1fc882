"""Where the confidence in each task example comes from: a column of the data, or PVI."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from telltune.errors import RecipeError
from telltune.methods.selection import usable
from telltune.recipe import SelectionSpec
from telltune.valuation.fold_models import pvi_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from telltune.data.task import TaskData
    from telltune.models import BaseModel
    from telltune.recipe import ConfidenceSpec, Recipe

__all__ = ["from_bits", "trust"]


def trust(
    task: TaskData,
    base: BaseModel,
    recipe: Recipe,
    spec: ConfidenceSpec,
    *,
    anchored: bool,
    progress: bool = False,
) -> tuple[NDArray[np.float64], float]:
    """The confidence in each training example that the recipe may use.

    Args:
        task: Whose training data are meant.
        base: Without an adapter; it is left as it was.
        recipe: The run's.
        spec: Where confidences come from.
        anchored: Whether the anchor goes with the examples.
        progress: Show bars.

    Returns:
        Above 0 and up to 1, (examples,); and the seconds that finding them took.

    Raises:
        RecipeError: No data set names its column, or as `pvi_scores`.
        DataError: As `pvi_scores`.
    """
    examples = usable(task, base, recipe)
    if spec.by == "column":
        named = any(d.columns and d.columns.confidence for d in recipe.task.train or ())
        # What the model made of the task's examples says itself how far it can be trusted.
        if not named and recipe.synthesis is None:
            raise RecipeError(
                "confidence.by: column, but no data set of `task.train` says which column it is; "
                "write `columns: {prompt: ..., completion: ..., confidence: ...}`."
            )
        return np.array([example.confidence for example in examples]), 0.0
    chosen = recipe.selection if recipe.selection and recipe.selection.by == "pvi" else None
    anchor = task.anchor if anchored else None
    how = chosen or SelectionSpec()
    found = pvi_scores(base, examples, anchor, recipe, how, progress=progress)
    # A choice by the same scores has counted what they took.
    seconds = 0.0 if chosen else found.training_seconds + found.scoring_seconds
    return from_bits(found.bits), seconds


def from_bits(pvi: NDArray[np.float64]) -> NDArray[np.float64]:
    """A confidence from 1/2 to 1: half of it g_x/(g_x + g∅), since PVI = log2 g_x - log2 g∅."""
    # From either side, so that no power of two overflows.
    odds = np.exp(-np.abs(pvi) * math.log(2))
    return np.asarray(0.5 + 0.5 * np.where(pvi >= 0, 1, odds) / (1 + odds), np.float64)
