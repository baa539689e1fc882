"""When two texts count as the same item, although not equal letter by letter."""

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
    """The words of the text in lower case, without punctuation and spacing."""
    return _WORD.findall(text.lower())


def shingles(text: str) -> set[str]:
    """All runs of eight words; of a shorter text, the whole text as one run."""
    words = normal_words(text)
    last = max(len(words) - SHINGLE_WORDS, 0)
    return {" ".join(words[i : i + SHINGLE_WORDS]) for i in range(last + 1)}


def without_near_duplicates(
    examples: Iterable[Example], item: Callable[[Example], str]
) -> list[Example]:
    """Keep an example unless at least half of its item's word runs stood in earlier items.

    Without this, rewordings of one item could land on both sides of a split, and a test score
    would reward memory.

    Args:
        examples: In the order in which they have precedence.
        item: The text that makes an example the example it is: its prompt, for most tasks.
    """
    seen: set[str] = set()
    kept: list[Example] = []
    for example in examples:
        runs = shingles(item(example))
        if len(runs & seen) < SHARED_PART * len(runs):
            kept.append(example)
            seen |= runs
    return kept
