"""Base class of the two levers of the recipe key `synthesis`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from telltune.data.examples import Message, as_turns
from telltune.inference.api_client import api_client
from telltune.inference.writer import Writer

if TYPE_CHECKING:
    from telltune.data.task import TaskData
    from telltune.levers.protocol import Resources, UseAs, Yield
    from telltune.models import LoadedModel
    from telltune.recipe import ApiSpec, SynthesisSpec


@dataclass(frozen=True)
class Synthesis(ABC):
    """Base class of the levers by which a model makes examples from the labeled ones.

    Attributes:
        spec: Settings of the generation, and use of the examples.
        teacher: Model behind an API that writes the texts; None for the base model.
    """

    spec: SynthesisSpec
    teacher: ApiSpec | None = None
    name = "synthesis"
    needs_unlabeled = False

    @property
    def use_as(self) -> UseAs:
        """Use of the made examples in training."""
        return self.spec.use_as

    def apply(self, task: TaskData, resources: Resources) -> Yield:
        """Make examples; see `Lever.apply`."""
        return self.make(task, resources.base, seed=resources.seed, progress=resources.progress)

    @abstractmethod
    def describe(self) -> str:
        """Return a clause for `tell plan`."""

    def make(
        self, task: TaskData, base: LoadedModel, *, seed: int = 0, progress: bool = False
    ) -> Yield:
        """Make examples with the base model or the teacher from the labeled examples.

        Raises:
            DataError: The labeled examples do not suit the lever, or none is made of them.
            ModelError: The teacher cannot be asked.
        """
        if self.teacher is None:
            return self._make(task, Writer(base), seed=seed, progress=progress)
        client = api_client(self.teacher)
        before = client.usage
        got = self._make(task, Writer(base, client), seed=seed, progress=progress)
        return replace(got, notes=(*got.notes, client.usage.since(before).told(self.teacher)))

    @abstractmethod
    def _make(self, task: TaskData, writer: Writer, *, seed: int, progress: bool) -> Yield:
        """Make examples; see `make`."""

    @property
    def writer(self) -> str:
        """Name of the model that writes the texts, for sentences."""
        return "the model" if self.teacher is None else f"the teacher {self.teacher.model}"

    def shots(self, task: TaskData) -> tuple[Message, ...]:
        """Return the turns before every prompt if a run trains on the made examples only."""
        return as_turns(task.train[: self.spec.shots]) if self.use_as == "only" else ()


def instruction_of(task: TaskData) -> str:
    """Return the task instruction: the anchor's prompt, or a default without an anchor."""
    return task.anchor.prompt if task.anchor else "Answer as in the examples."
