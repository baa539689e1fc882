"""Run plan: everything that training needs besides the model, and the counts of the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from telltune.training.training_data import TrainingData, step_places

if TYPE_CHECKING:
    from telltune.data.anchor import Anchor
    from telltune.data.encoded import EncodedSet
    from telltune.recipe import Recipe


@dataclass(frozen=True)
class RunCounts:
    """Counts of a run.

    Attributes:
        task_examples: Number of distinct task examples, including those that levers made.
        task_tokens: Number of their tokens, prompt and response, after the model's own chat
            template.
        general_examples: Number of general examples seen in training.
        general_tokens: Number of their tokens.
        leverage_ratio: general_tokens / task_tokens.
        passes: Number of times that each task example appears; the mean if they differ.
        optimizer_steps: Number of optimizer steps in the whole run.
        trained_tokens: Number of trained tokens, including the anchor and repeated passes.
        truncated: Origins of examples truncated to `training.max_length`.
        dev_examples: Number of dev examples used for early stopping.
    """

    task_examples: int
    task_tokens: int
    general_examples: int
    general_tokens: int
    leverage_ratio: float
    passes: float
    optimizer_steps: int
    trained_tokens: int
    truncated: tuple[str, ...] = ()
    dev_examples: int = 0


def mean_passes(seen: int, examples: int) -> float:
    """Return how often each example is seen on average: an integer, or with two decimals."""
    return round(seen / examples, 2) if seen % examples else seen // examples


@dataclass(frozen=True)
class DevPlan:
    """Plan of the evaluations on dev data.

    Attributes:
        encoded: The encoded dev examples.
        looks: Number of evaluations, evenly spaced; the last is at the end of the run.
        answers: Whether each evaluation also answers the prompts and scores the answers.
        work: Work of all evaluations as a share of the work of training.
    """

    encoded: EncodedSet
    looks: int
    answers: bool
    work: float


@dataclass(frozen=True)
class RunPlan(TrainingData):
    """Everything that training needs besides the model.

    Attributes:
        counts: Counts of the run.
        anchor: The anchor in use, or None.
        recipe: The method's recipe, with each `auto` replaced by a number.
        settings: Numbers that replace `auto`, by recipe key.
        dev: Plan of the evaluations on dev data; None without them.
        warnings: Warnings about how the data are rendered, one sentence each.
    """

    counts: RunCounts
    anchor: Anchor | None
    recipe: Recipe
    settings: dict[str, int | float]
    dev: DevPlan | None = None
    warnings: tuple[str, ...] = ()

    @property
    def max_general_index(self) -> int:
        """Number of the first drawn general examples that training may use."""
        drawn, choice = self.counts.general_examples, self.recipe.general_choice
        return drawn if choice is None else max(drawn, choice.candidates)

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
            passes=mean_passes(len(task), self.counts.task_examples),
            optimizer_steps=steps,
            trained_tokens=int(self.task.lengths[task].sum()) + general_tokens,
        )
        return replace(self, counts=counts)
