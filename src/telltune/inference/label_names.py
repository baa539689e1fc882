"""What an answer says, apart from how it is written: its words, and the label that it names."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["label_key", "names", "read_label", "same_text"]

_WORD = re.compile(r"\w+")
_DECIMAL = re.compile(r"[+-]?\d+(\.\d+)?")
_SEPARATORS = re.compile(r"(?<=\w)[\s_-]+(?=\w)")
_PUNCTUATION = ".,;:!?\"'`()[]“”‘’"


def same_text(text: str) -> str:
    """What two texts have in common that say the same: their words, case folded."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFC", text).casefold()))


def label_key(text: str) -> str:
    """Return a form that labels share when they differ in spelling only.

    Case, white space, Unicode composition, punctuation around a label, hyphens and underscores
    between words, and the spelling of a decimal number (`1` and `1.0`) do not count. Signs that
    carry meaning do: `A+` and `A-`, `C` and `C#`, `1` and `-1` stay apart.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    if _DECIMAL.fullmatch(plain):
        return f"{float(plain):g}" if len(plain) < 15 else plain
    bare = _SEPARATORS.sub(" ", plain.strip(_PUNCTUATION + " "))
    return bare or plain


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
