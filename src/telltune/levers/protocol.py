"""Protocol of levers, which make training examples and report what they refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from telltune.data.examples import Example

__all__ = ["Answer", "Lever", "Yield"]


Answer: TypeAlias = "Callable[[Sequence[Example], int], tuple[list[str], float]]"
"""Trains an adapter on the labeled examples with a seed and answers prompts with it; returns the
answers, and the seconds that this took when it was done first."""


@dataclass(frozen=True)
class Yield:
    """What a lever made, and what it refused.

    Attributes:
        lever: The recipe's key.
        examples: Made examples, each with its confidence.
        asked: Number of inputs that it looked at.
        refused: Number of inputs from which no example came, by reason.
        notes: How it went, one sentence each.
        seconds: Seconds that it took, or took when it was run first.
    """

    lever: str
    examples: tuple[Example, ...]
    asked: int
    refused: Mapping[str, int]
    notes: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON: counts in place of the examples."""
        return {
            "lever": self.lever,
            "made": len(self.examples),
            "asked": self.asked,
            "refused": dict(self.refused),
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }


class Lever(Protocol):
    """A way to make training examples; see `telltune.levers` for the files."""

    @property
    def name(self) -> str:
        """Name in recipes."""
        ...

    def apply(self, labeled: Sequence[Example], inputs: Sequence[Example], answer: Answer) -> Yield:
        """Make examples: the same ones for the same arguments.

        Args:
            labeled: The task's labeled examples.
            inputs: Its unlabeled inputs.
            answer: Trains and asks an adapter; what it answered before comes from the cache.

        Raises:
            RecipeError: The lever cannot work with what the recipe gives it.
        """
        ...
