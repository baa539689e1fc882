"""Detection of near-duplicate items."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from telltune.data.examples import Example

__all__ = ["normal_words", "shingles", "without_near_duplicates"]

SHINGLE_WORDS = 8
SHARED_PART = 0.5

_WORD = re.compile(r"\w+")


def normal_words(text: str) -> list[str]:
    """Return the lower-case words of a text, without punctuation and white space."""
    return _WORD.findall(text.lower())


def shingles(text: str) -> set[str]:
    """Return all runs of eight words, or the whole text as one run if it is shorter."""
    words = normal_words(text)
    last = max(len(words) - SHINGLE_WORDS, 0)
    return {" ".join(words[i : i + SHINGLE_WORDS]) for i in range(last + 1)}


def without_near_duplicates(
    examples: Iterable[Example], item: Callable[[Example], str]
) -> list[Example]:
    """Drop examples if at least half of their item's word runs occur in items kept before.

    Otherwise rewordings of one item could be in both training and test data, and a test score
    would reward memorization.
    """
    seen: set[str] = set()
    kept: list[Example] = []
    for example in examples:
        runs = shingles(item(example))
        if len(runs & seen) < SHARED_PART * len(runs):
            kept.append(example)
            seen |= runs
    return kept
