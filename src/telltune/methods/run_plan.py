"""A run plan: all that training needs besides the model, and the numbers that a run comes to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from telltune.training.training_data import TrainingData
from telltune.training.work import step_places

if TYPE_CHECKING:
    from telltune.data.anchor import Anchor
    from telltune.data.encoded import EncodedSet
    from telltune.recipe import Recipe

__all__ = ["DevPlan", "RunCounts", "RunPlan"]


@dataclass(frozen=True)
class RunCounts:
    """The numbers of a run.

    Attributes:
        task_examples: Distinct task examples.
        task_tokens: Their tokens, prompt and response, after the model's own chat template.
        general_examples: General examples that training sees.
        general_tokens: Their tokens.
        leverage_ratio: general_tokens / task_tokens.
        passes: How often each task example appears.
        optimizer_steps: Of the whole run.
        trained_tokens: All tokens computed in training, the anchor and repeated passes included.
        truncated: Origins of examples that lose their end to `training.max_length`.
        dev_examples: Dev examples that the run looks at for early stopping.
    """

    task_examples: int
    task_tokens: int
    general_examples: int
    general_tokens: int
    leverage_ratio: float
    passes: int
    optimizer_steps: int
    trained_tokens: int
    truncated: tuple[str, ...] = ()
    dev_examples: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class DevPlan:
    """How a run looks at dev data.

    Attributes:
        encoded: The dev examples.
        looks: Number of looks, evenly along the run; the last is at its end.
        answers: Whether each look also answers the prompts and scores the answers.
        work: Work of all looks as a share of the work of training.
    """

    encoded: EncodedSet
    looks: int
    answers: bool
    work: float


@dataclass(frozen=True)
class RunPlan(TrainingData):
    """Everything that training needs besides the model.

    Attributes:
        counts: What it comes to.
        anchor: The anchor in use, or None.
        recipe: The method's recipe, each `auto` in it replaced by a number.
        settings: The numbers that took the place of `auto`, by recipe key.
        dev: How the run looks at dev data; None where it does not.
        warnings: What the user should know of how the data are rendered; one sentence each.
    """

    counts: RunCounts
    anchor: Anchor | None
    recipe: Recipe
    settings: dict[str, int | float]
    dev: DevPlan | None = None
    warnings: tuple[str, ...] = ()

    def stopped_after(self, steps: int) -> RunPlan:
        """Return the same run with the counts of its first `steps` optimizer steps."""
        if steps == self.counts.optimizer_steps:
            return self
        places = [place for step in range(steps) for place in step_places(self.mixture, step)]
        task = [index for is_task, index in places if is_task]
        general = [index for is_task, index in places if not is_task]
        general_tokens = 0 if self.general is None else int(self.general.lengths[general].sum())
        counts = replace(
            self.counts,
            general_examples=len(general),
            general_tokens=general_tokens,
            leverage_ratio=round(general_tokens / self.counts.task_tokens, 3),
            optimizer_steps=steps,
            trained_tokens=int(self.task.lengths[task].sum()) + general_tokens,
        )
        return replace(self, counts=counts)
