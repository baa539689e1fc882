"""The tags around the thinking that a model writes before its answer.

Which tags a model uses is in the text of its chat template: `<think>` for most, `[THINK]` for
Magistral, `<seed:think>` for Seed-OSS, `<|begin_of_thought|>` for OpenThinker, `<thought>` for
EXAONE Deep, `<|START_THINKING|>` for Command A Reasoning.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

__all__ = ["ThinkingTags", "thinking_tags", "without_thinking"]

_WORD = r"((?:\w+:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?))"
# What stands around that word in the opening and in the closing tag.
_FORMS = (
    ("<{}>", "</{}>"),
    ("[{}]", "[/{}]"),
    ("◁{}▷", "◁/{}▷"),
    ("<|begin_of_{}|>", "<|end_of_{}|>"),
    ("<|START_{}|>", "<|END_{}|>"),
)
_OPENINGS = [
    re.compile(re.escape(opening).replace(r"\{\}", _WORD), re.IGNORECASE) for opening, _ in _FORMS
]


class ThinkingTags(NamedTuple):
    """The tags of one model.

    Attributes:
        open: The opening tag.
        close: The closing tag.
    """

    open: str
    close: str

    def match(self, text: str, *, opened: bool = False) -> re.Match[str] | None:
        """Match the thinking that an answer begins with.

        Args:
            text: An answer.
            opened: Whether the prompt before it has opened the thinking already.

        Returns:
            A match with the groups `open`, `thinking` and `close`, or None. The tags have the white
            space around them.
        """
        return _pattern(self.open, self.close, opened).match(text) if self.close in text else None

    def answer(self, text: str, *, opened: bool = False) -> str:
        """Return an answer without the thinking that it begins with; see `match`."""
        block = self.match(text, opened=opened)
        return text[block.end() :] if block else text


@cache
def _pattern(opening: str, closing: str, opened: bool) -> re.Pattern[str]:
    start = rf"\s*{re.escape(opening)}\s*"
    # Behind a prompt that opens the thinking, an answer may begin inside it.
    start += r"|\s*" if opened else ""
    end = rf"\s*{re.escape(closing)}\s*"
    return re.compile(f"(?P<open>{start})(?P<thinking>.*?)(?P<close>{end})", re.DOTALL)


@cache
def thinking_tags(template: str) -> ThinkingTags:
    """Find the tags that a chat template uses: the pair of which both stand in its text.

    Args:
        template: A chat template in Jinja.

    Returns:
        `<think>` and `</think>` where the template has these, or no pair at all.
    """
    usual = ThinkingTags("<think>", "</think>")
    if usual.open in template or usual.close in template:
        return usual
    for pattern, (opening, closing) in zip(_OPENINGS, _FORMS, strict=True):
        for word in pattern.findall(template):
            tags = ThinkingTags(opening.format(word), closing.format(word))
            if tags.open in template and tags.close in template:
                return tags
    return usual


def without_thinking(text: str) -> str:
    """Return an answer without the thinking that it begins with, in any of the known tags."""
    begun = text.lstrip()
    for pattern, (_, closing) in zip(_OPENINGS, _FORMS, strict=True):
        if tag := pattern.match(begun):
            return ThinkingTags(tag[0], closing.format(tag[1])).answer(begun)
    return text
