"""Filters for texts that a model generated."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from telltune.inference.label_matching import same_text, words

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TextFilter"]

# Phrases that introduce or replace an answer. Quotes and Markdown may precede them.
_OPENERS = re.compile(
    r"[\s\"'*_#>`]*(?:"
    r"(?:sure|certainly|of course|okay|here(?: is| are|['’]s)|as an ai|i['’]m sorry|i am sorry|"
    r"i cannot|i can['’]t|unfortunately)(?!\w)"
    r"|(?:input|output|question|answer)(?: \d+)?[*_ ]*[:：])",
    re.IGNORECASE,
)
_DEVIATIONS = 2
_LEAST_SPREAD = 0.5
"""Minimum length tolerance as a share of the mean, for demonstrations of nearly equal length."""


@dataclass
class TextFilter:
    """Rejects texts that are empty, boilerplate, length outliers or duplicates.

    Attributes:
        demonstrations: Examples of the wanted texts.
        distinct: Whether duplicates are rejected.
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
        """Return why a text is rejected, or None, in which case the text is remembered.

        The reasons are `empty`, `opener`, `length` and `duplicate`.
        """
        key = same_text(text)
        if not key:
            return "empty"
        # If a demonstration has such an opening, it is part of the task.
        if self._openers and _OPENERS.match(text):
            return "opener"
        if not self.shortest <= len(words(text)) <= self.longest:
            return "length"
        if self.distinct and key in self._seen:
            return "duplicate"
        self._seen.add(key)
        return None
