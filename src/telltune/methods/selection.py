"""Which task examples a method trains on, and in which order, by what each is worth to the model.

Scores come from models trained on the method's own examples and from nothing else: not from dev or
test items, nor from examples that a smaller size may not use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.data.encoding import Encoder
from telltune.data.task import within
from telltune.valuation.fold_models import pvi_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from telltune.data.task import TaskData
    from telltune.models import BaseModel
    from telltune.recipe import Recipe, SelectionSpec

__all__ = ["Selection", "choose", "select"]


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
    task: TaskData, base: BaseModel, recipe: Recipe, spec: SelectionSpec, *, anchored: bool
) -> Selection:
    """Score the examples that the recipe may use, and choose among them.

    Args:
        task: Whose training data are scored.
        base: Without an adapter; it is left as it was.
        recipe: The run's.
        spec: What to choose.
        anchored: Whether the anchor goes with them.

    Raises:
        RecipeError: As `pvi_scores`.
        DataError: Likewise.
    """
    lengths = Encoder(base.tokenizer).encode(task.train).lengths
    examples = task.train[: within(lengths, recipe.task.max_tokens)]
    found = pvi_scores(base, examples, task.anchor if anchored else None, recipe, spec)
    chosen = choose(found.bits_per_token, spec)
    seconds = round(found.training_seconds + found.scoring_seconds, 3)
    return Selection(spec.by, len(examples), tuple(chosen.tolist()), seconds)


def choose(scores: NDArray[np.float64], spec: SelectionSpec) -> NDArray[np.int64]:
    """The examples to use, in the order of training.

    Shares are rounded down to whole examples, so that one at least is left.

    Args:
        scores: Of each example, higher for an easier one, (examples,).
        spec: What to leave out, and the order; the examples' own if it names none.
    """
    hardest, easiest = (
        # A tenth of thirty is three, though not in floating point.
        math.floor(share * len(scores) + 1e-9)
        for share in (spec.drop_hardest, spec.drop_easiest)
    )
    ranked = np.argsort(scores, kind="stable")[hardest : len(scores) - easiest]
    if spec.order is None:
        return np.sort(ranked)
    return ranked if spec.order == "hard_first" else ranked[::-1]
