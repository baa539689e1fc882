"""What an answer says, apart from how it is written: its words, and the label that it names."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["names", "read_label", "same_text"]

_WORD = re.compile(r"\w+")


def same_text(text: str) -> str:
    """What two texts have in common that say the same: their words, case folded."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFC", text).casefold()))


def names(text: str, name: str) -> bool:
    """Whether a name stands in a text, as whole words; one without words stands nowhere."""
    words = same_text(name)
    return bool(words) and f" {words} " in f" {same_text(text)} "


def read_label(answer: str, labels: Sequence[str]) -> str | None:
    """The only label that an answer names, whatever stands around it; or None."""
    named = [label for label in labels if names(answer, label)]
    # Of labels that contain one another the longest is meant.
    longest = [a for a in named if not any(a != b and same_text(a) in same_text(b) for b in named)]
    return longest[0] if len(longest) == 1 else None
