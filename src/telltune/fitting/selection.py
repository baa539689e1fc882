"""Selection and order of the task examples by their scores.

Scores are computed from the base and the method's own examples only. They do not use dev or test
items, or examples beyond the recipe's budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.data.task import count_within_budget
from telltune.errors import DataError
from telltune.fitting.build_plan import encoding
from telltune.fitting.model_info import ModelInfo
from telltune.valuation.scores import score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example
    from telltune.data.task import TaskData
    from telltune.models import LoadedModel
    from telltune.recipe import Recipe, SelectionSpec
    from telltune.valuation.scores import Scores

__all__ = ["Selection", "choose", "examples_in_budget", "select"]


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
        spec = recipe.task.model_copy(update={"max_tokens": None})
        return replace(task, train=train), recipe.model_copy(update={"task": spec})


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

    Args:
        task: Task whose training examples are scored.
        base: Base model without an adapter; unchanged on return.
        recipe: Recipe of the run.
        spec: Settings of the selection.
        anchored: Whether to add the anchor to the examples.
        progress: Whether to show progress bars.

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
    """Return the indices of the examples to use, in the order of training.

    Filters apply in this order: levels; shares, rounded down to whole examples so that at least one
    remains; number of examples.

    Args:
        scores: Scores of all examples, in the order of their draw.
        spec: Filters and order. Without an order, the examples keep theirs.

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
