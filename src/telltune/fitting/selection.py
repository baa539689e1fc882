"""Selection and order of the task examples by their scores, and the confidence in each.

Scores are computed from the base and the method's own examples only. They do not use dev or test
items, or examples beyond the recipe's budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.data.task import TaskData, count_within_budget
from telltune.errors import DataError, RecipeError
from telltune.fitting.build_plan import encoding
from telltune.fitting.model_info import ModelInfo
from telltune.recipe import ConfidenceSpec, Recipe, SelectionSpec
from telltune.valuation.pvi import pvi_scores
from telltune.valuation.scores import Scores, score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example
    from telltune.models import LoadedModel


@dataclass(frozen=True)
class Selection:
    """Selected examples of a task.

    Attributes:
        by: Name of the score.
        available: Number of examples before the selection.
        chosen: Indices into the task's examples, in the order of training.
        seconds: Time of scoring in seconds.
    """

    by: str
    available: int
    chosen: tuple[int, ...]
    seconds: float = 0.0

    @classmethod
    def of(cls, record: dict[str, Any]) -> Selection:
        """Return the selection recorded in tell.json."""
        return cls(**record | {"chosen": tuple(record["chosen"])})

    def apply(self, task: TaskData, recipe: Recipe) -> tuple[TaskData, Recipe]:
        """Return the task with only these examples, and the recipe that uses them all."""
        train = tuple(task.train[i] for i in self.chosen)
        return replace(task, train=train), recipe.changed(task={"max_tokens": None})


def select(
    task: TaskData,
    base: LoadedModel,
    recipe: Recipe,
    spec: SelectionSpec,
    *,
    anchored: bool,
    progress: bool = False,
) -> Selection:
    """Score the examples within the recipe's budget, and select among them.

    The base model is without an adapter, and is unchanged on return.

    Raises:
        RecipeError: See `score`.
        DataError: See `score`; or no example has a level that the recipe names.
    """
    examples = examples_in_budget(task, base, recipe)
    anchor = task.anchor if anchored else None
    found = score(base, examples, anchor, recipe, spec, progress=progress)
    chosen = choose(found, spec)
    seconds = round(sum(found.seconds.values()), 3)
    return Selection(spec.by, len(examples), tuple(chosen.tolist()), seconds)


def examples_in_budget(task: TaskData, base: LoadedModel, recipe: Recipe) -> Sequence[Example]:
    """Return the training examples within the recipe's budget of task tokens."""
    known = ModelInfo.of(base.model.config, base.tokenizer)
    lengths = encoding(known, recipe).encode(task.train).lengths
    return task.train[: count_within_budget(lengths, recipe.task.max_tokens)]


def choose(scores: Scores, spec: SelectionSpec) -> NDArray[np.int64]:
    """Return the indices of the examples to use, in the order of training, (chosen,).

    Filters apply in this order: levels; shares, rounded down to whole examples so that at least one
    remains; number of examples. Without an order, the examples keep that of their draw.

    Raises:
        DataError: No example has one of the levels.
    """
    ranked = scores.hardest_first
    if spec.levels is not None:
        assert scores.level is not None  # The recipe allows levels with memory scores only.
        ranked = ranked[np.isin(scores.level[ranked], spec.levels)]
        if not ranked.size:
            there = ", ".join(map(str, np.unique(scores.level).tolist()))
            raise DataError(
                f"selection.levels = {spec.levels}: none of {len(scores.level)} examples has one "
                f"of these levels, only {there}; `tell score` lists the level of each."
            )
    hardest, easiest = (
        # The margin corrects rounding errors: 0.1 * 30 must give 3.
        math.floor(share * len(ranked) + 1e-9)
        for share in (spec.drop_hardest, spec.drop_easiest)
    )
    ranked = ranked[hardest : len(ranked) - easiest]
    drawn = np.sort(ranked)[: spec.examples]
    if spec.order is None:
        return drawn
    ranked = ranked[np.isin(ranked, drawn)]
    return ranked if spec.order == "hard_first" else ranked[::-1]


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

    The base model is without an adapter, and is unchanged on return.

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
