"""Which task examples a method trains on, and in which order, by what each is worth to the model.

Scores come from the method's own examples and the base, and from nothing else: not from dev or test
items, nor from examples that a smaller size may not use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.data.task import within
from telltune.errors import DataError
from telltune.methods.known_model import KnownModel
from telltune.methods.preparation import encoding
from telltune.valuation.scores import score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example
    from telltune.data.task import TaskData
    from telltune.models import BaseModel
    from telltune.recipe import Recipe, SelectionSpec
    from telltune.valuation.scores import Scores

__all__ = ["Selection", "choose", "select", "usable"]


@dataclass(frozen=True)
class Selection:
    """Which of a task's examples are used.

    Attributes:
        by: What they were scored by.
        available: How many there were.
        chosen: Their numbers in the task's order, in the order of training.
        seconds: That scoring took.
    """

    by: str
    available: int
    chosen: tuple[int, ...]
    seconds: float = 0.0

    @classmethod
    def of(cls, record: dict[str, Any]) -> Selection:
        """What tell.json holds."""
        return cls(**record | {"chosen": tuple(record["chosen"])})

    def apply(self, task: TaskData, recipe: Recipe) -> tuple[TaskData, Recipe]:
        """The task with these examples alone, and the recipe that uses them all."""
        train = tuple(task.train[i] for i in self.chosen)
        spec = recipe.task.model_copy(update={"max_tokens": None})
        return replace(task, train=train), recipe.model_copy(update={"task": spec})


def select(
    task: TaskData,
    base: BaseModel,
    recipe: Recipe,
    spec: SelectionSpec,
    *,
    anchored: bool,
    progress: bool = False,
) -> Selection:
    """Score the examples that the recipe may use, and choose among them.

    Args:
        task: Whose training data are scored.
        base: Without an adapter; it is left as it was.
        recipe: The run's.
        spec: What to choose.
        anchored: Whether the anchor goes with them.
        progress: Show bars.

    Raises:
        RecipeError: As `score`.
        DataError: Likewise, or no example is of the levels that the recipe names.
    """
    examples = usable(task, base, recipe)
    anchor = task.anchor if anchored else None
    found = score(base, examples, anchor, recipe, spec, progress=progress)
    chosen = choose(found, spec)
    seconds = round(sum(found.seconds.values()), 3)
    return Selection(spec.by, len(examples), tuple(chosen.tolist()), seconds)


def usable(task: TaskData, base: BaseModel, recipe: Recipe) -> Sequence[Example]:
    """The training examples within the recipe's budget of task tokens."""
    known = KnownModel.of(base.model.config, base.tokenizer)
    lengths = encoding(known, recipe).encode(task.train).lengths
    return task.train[: within(lengths, recipe.task.max_tokens)]


def choose(scores: Scores, spec: SelectionSpec) -> NDArray[np.int64]:
    """The examples to use, in the order of training.

    Levels come first, then shares, rounded down to whole examples so that one at least is left,
    then the number of examples.

    Args:
        scores: Of all examples, which are in the order of their draw.
        spec: What to leave out, and the order; the examples' own if it names none.

    Raises:
        DataError: None is of the wanted levels.
    """
    ranked = scores.hardest_first
    if spec.levels is not None:
        assert scores.level is not None  # by the recipe's own check: they are memory's
        ranked = ranked[np.isin(scores.level[ranked], spec.levels)]
        if not ranked.size:
            there = ", ".join(map(str, np.unique(scores.level).tolist()))
            raise DataError(
                f"selection.levels = {spec.levels}: none of {len(scores.level)} examples is of "
                f"them, they are of {there}; `tell score` lists each one's."
            )
    hardest, easiest = (
        # A tenth of thirty is three, though not in floating point.
        math.floor(share * len(ranked) + 1e-9)
        for share in (spec.drop_hardest, spec.drop_easiest)
    )
    ranked = ranked[hardest : len(ranked) - easiest]
    drawn = np.sort(ranked)[: spec.examples]
    if spec.order is None:
        return drawn
    ranked = ranked[np.isin(ranked, drawn)]
    return ranked if spec.order == "hard_first" else ranked[::-1]
