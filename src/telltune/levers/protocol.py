"""Protocol of levers, which make training examples and count refused inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from telltune.data.examples import Example

__all__ = ["Answer", "Lever", "Yield"]


Answer: TypeAlias = "Callable[[Sequence[Example], int], tuple[list[str], float]]"
"""Function that trains an adapter on the labeled examples with a seed and answers prompts.

It returns the answers and the time in seconds of the first computation."""


@dataclass(frozen=True)
class Yield:
    """Result of a lever.

    Attributes:
        lever: Recipe key of the lever.
        examples: Examples made, each with its confidence.
        asked: Number of inputs considered.
        refused: Number of inputs that gave no example, by reason.
        notes: Remarks, one sentence each.
        seconds: Time of the first run in seconds.
    """

    lever: str
    examples: tuple[Example, ...]
    asked: int
    refused: Mapping[str, int]
    notes: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)

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


class Lever(Protocol):
    """Way to make training examples; the implementations are in `telltune.levers`."""

    @property
    def name(self) -> str:
        """Name in recipes."""
        ...

    def apply(self, labeled: Sequence[Example], inputs: Sequence[Example], answer: Answer) -> Yield:
        """Make examples; the same arguments give the same examples.

        Args:
            labeled: Labeled examples of the task.
            inputs: Unlabeled inputs of the task.
            answer: Function that trains an adapter and answers prompts; earlier answers are cached.

        Raises:
            RecipeError: The recipe's data do not suit the lever.
        """
        ...
