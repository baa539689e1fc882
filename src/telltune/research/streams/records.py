"""Records of a cascade about one input: from its way through the levels to its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, eq=False)
class Passed:
    """Input that has passed through the levels.

    Attributes:
        text: The input.
        sampled: Whether the top model labels it whatever the levels think.
        level: Number of the level that answers it; -1 for the top model.
        likely: Likelihood of each label by each level; None for a level that was not asked.
        seconds: Time of the levels in seconds.
    """

    text: str
    sampled: bool
    level: int
    likely: list[list[float] | None]
    seconds: float


@dataclass(frozen=True)
class LabeledItem:
    """Answer of the top model to one input.

    Attributes:
        label: One of the labels; None if the model gave none.
        tokens: Number of tokens read and written.
        seconds: Time of the call in seconds, retries included.
        failure: Reason why there is no label; "" otherwise.
    """

    label: str | None
    tokens: int
    seconds: float
    failure: str = ""

    def failure_among(self, labels: Sequence[str]) -> str:
        """Return the reason why there is none of the labels; "" if there is one."""
        if self.label is None:
            return self.failure or "the top gave no label"
        return "" if self.label in labels else f"`{self.label}` is not one of the labels"


class Judged(NamedTuple):
    """Input that the top model has labeled.

    Attributes:
        likely: Likelihood of each label by each level, from before the level learned the input;
            None for a level that was not asked.
        label: Number of the top model's label.
    """

    likely: list[list[float] | None]
    label: int

    def right(self, level: int) -> bool:
        """Return whether the top model's label is the most likely one of a level that was asked."""
        likely = self.likely[level]
        return likely is not None and likely.index(max(likely)) == self.label

    def confidence(self, level: int) -> float:
        """Return the highest likelihood by a level; 0 if it was not asked."""
        return max(self.likely[level] or [0.0])


@dataclass(frozen=True)
class CascadeAnswer:
    """Answer to one input.

    Attributes:
        text: The answer, which is one of the labels.
        level: Name of the level that gave it; `top` for the top model.
        confidence: Likelihood of the answer according to that level, from 0 to 1; None for the top
            model.
        cost: Cost of the levels that were asked, relative to a call of the top model, which costs
            1.
        seconds: Time for this input in seconds, with its share of the levels' time.
        tokens: Number of tokens that the top model read and wrote.
        failure: Reason why the top model was needed but gave no label; "" otherwise.
    """

    text: str
    level: str
    confidence: float | None
    cost: float
    seconds: float
    tokens: int = 0
    failure: str = ""
