"""Protocol of levers: task data in, made examples and a count of what was refused out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from telltune.data.examples import Example, Message
    from telltune.data.task import TaskData
    from telltune.models import LoadedModel

Answer: TypeAlias = "Callable[[Sequence[Example], int], tuple[list[str], float]]"
"""Function that trains an adapter on the labeled examples with a seed and answers prompts.

It returns the answers and the time in seconds of the first computation."""

UseAs = Literal["once", "task", "general", "third", "only"]
"""Use of the made examples in training.

- `once`: Each appears once, and its confidence scales its loss. Labeled examples appear in every
  pass.
- `task`: Each appears in every pass, like a labeled example. `selection` and `confidence` apply.
- `general`: They replace the general data.
- `third`: They are mixed in beside the general data.
- `only`: They replace the labeled examples.
"""


@dataclass(frozen=True)
class Resources:
    """Models and settings of a run that a lever may use.

    Attributes:
        base: Base model without an adapter; a lever leaves it unchanged.
        answer: Function that trains an adapter and answers prompts; earlier answers are cached.
        seed: Seed of the run.
        progress: Whether to show progress.
    """

    base: LoadedModel
    answer: Answer
    seed: int
    progress: bool = False


@dataclass(frozen=True)
class Yield:
    """Result of a lever.

    Attributes:
        lever: Recipe key of the lever.
        examples: Examples made, each with its confidence.
        asked: Number of inputs considered.
        refused: Number of inputs that gave no example, by reason.
        notes: Remarks, one sentence each.
        seconds: Time that the lever took in seconds.
        shots: Turns before every prompt, in training and inference.
    """

    lever: str
    examples: tuple[Example, ...]
    asked: int
    refused: Mapping[str, int]
    notes: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)
    shots: tuple[Message, ...] = ()

    def __str__(self) -> str:
        return yield_text(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON, with counts instead of examples."""
        return {
            "lever": self.lever,
            "made": len(self.examples),
            "asked": self.asked,
            "refused": dict(self.refused),
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }


def yield_text(report: Mapping[str, Any]) -> str:
    """Return a text such as `6 examples from 90 inputs; refused: not asked (84)`.

    The report is from `Yield.to_dict`, or an entry of `levers` in tell.json.
    """
    told = [f"{reason} ({count:,})" for reason, count in report["refused"].items() if count]
    reasons = ", ".join(told) or "none"
    return f"{report['made']:,} examples from {report['asked']:,} inputs; refused: {reasons}"


class Lever(Protocol):
    """Way to make training examples; `levers_of` returns those of a recipe."""

    @property
    def name(self) -> str:
        """Name in recipes."""
        ...

    @property
    def use_as(self) -> UseAs:
        """Use of the made examples in training."""
        ...

    @property
    def needs_unlabeled(self) -> bool:
        """Whether the lever needs unlabeled inputs."""
        ...

    def describe(self) -> str:
        """Return a clause for `tell plan`, such as `the model makes up to 200 task examples`."""
        ...

    def apply(self, task: TaskData, resources: Resources) -> Yield:
        """Make examples; the same arguments give the same examples.

        Args:
            task: Task. `train` has the labeled examples only, whatever other levers made.
                `unlabeled` has the inputs that are not labeled and leave room for an answer; it is
                empty unless `needs_unlabeled`.
            resources: Models and settings of the run.

        Raises:
            RecipeError: The recipe's data do not suit the lever.
        """
        ...
