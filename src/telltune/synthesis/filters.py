"""Why a text that a model wrote is no use: one reason, or none."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from telltune.inference.label_names import same_text, words

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TextFilter"]

# What models write around an answer in place of one. Quotes and Markdown may stand before it.
_OPENERS = re.compile(
    r"[\s\"'*_#>`]*(?:"
    r"(?:sure|certainly|of course|okay|here(?: is| are|['’]s)|as an ai|i['’]m sorry|i am sorry|"
    r"i cannot|i can['’]t|unfortunately)(?!\w)"
    r"|(?:input|output|question|answer)(?: \d+)?[*_ ]*[:：])",
    re.IGNORECASE,
)
_DEVIATIONS = 2
_LEAST_SPREAD = 0.5
"""Of the mean. Demonstrations of one length would else refuse everything of another."""


@dataclass
class TextFilter:
    """Refuses what is empty, too short or long, opens like chatter, or has been there before.

    Attributes:
        demonstrations: Texts of the kind that is wanted.
        distinct: Whether each may come once only; answers may come again.
    """

    demonstrations: Sequence[str]
    distinct: bool = True
    _seen: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        lengths = [len(words(text)) for text in self.demonstrations]
        mean = fmean(lengths)
        spread = max(_DEVIATIONS * pstdev(lengths), _LEAST_SPREAD * mean, 1)
        self.shortest, self.longest = mean - spread, mean + spread
        self._openers = not any(_OPENERS.match(text) for text in self.demonstrations)
        if self.distinct:
            self._seen = {same_text(text) for text in self.demonstrations}

    def reason(self, text: str) -> str | None:
        """`empty`, `opener`, `length` or `duplicate`; None keeps the text, and knows it."""
        key = same_text(text)
        if not key:
            return "empty"
        # Where the demonstrations open so themselves, it is the task's own way.
        if self._openers and _OPENERS.match(text):
            return "opener"
        if not self.shortest <= len(words(text)) <= self.longest:
            return "length"
        if self.distinct and key in self._seen:
            return "duplicate"
        self._seen.add(key)
        return None
