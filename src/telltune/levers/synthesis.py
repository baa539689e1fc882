"""Base class of the two levers of the recipe key `synthesis`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from telltune.data.examples import as_turns

if TYPE_CHECKING:
    from telltune.data.examples import Message
    from telltune.data.task import TaskData
    from telltune.levers.protocol import Resources, UseAs, Yield
    from telltune.models import LoadedModel
    from telltune.recipe import SynthesisSpec

__all__ = ["Synthesis", "instruction_of"]


@dataclass(frozen=True)
class Synthesis(ABC):
    """Base class of the levers by which the base model makes examples from the labeled ones.

    Attributes:
        spec: Settings of the generation, and use of the examples.
    """

    spec: SynthesisSpec
    name = "synthesis"
    needs_unlabeled = False

    @property
    def use_as(self) -> UseAs:
        """Use of the made examples in training."""
        return self.spec.use_as

    def apply(self, task: TaskData, resources: Resources) -> Yield:
        """Make examples; see `Lever.apply`."""
        base, seed = resources.base, resources.seed
        return self.make(task, base, seed=seed, progress=resources.progress)

    @abstractmethod
    def describe(self) -> str:
        """Return a clause for `tell plan`."""

    @abstractmethod
    def make(
        self, task: TaskData, base: LoadedModel, *, seed: int = 0, progress: bool = False
    ) -> Yield:
        """Make examples with the base model from the labeled examples."""

    def shots(self, task: TaskData) -> tuple[Message, ...]:
        """Return the turns before every prompt if a run trains on the made examples only."""
        return as_turns(task.train[: self.spec.shots]) if self.use_as == "only" else ()


def instruction_of(task: TaskData) -> str:
    """Return the task instruction: the anchor's prompt, or a default without an anchor."""
    return task.anchor.prompt if task.anchor else "Answer as in the examples."
