"""Tags around the thinking that a model generates before its answer.

The tags are detected in the model's chat template: `<think>` for most models, `[THINK]` for
Magistral, `<seed:think>` for Seed-OSS, `<|begin_of_thought|>` for OpenThinker, `<thought>` for
EXAONE Deep, `<|START_THINKING|>` for Command A Reasoning.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

_WORD = r"((?:\w+:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?))"
# Forms of the opening and closing tag around that word.
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
    """Thinking tags of one model."""

    open: str
    close: str

    def match(self, text: str, *, opened: bool = False) -> re.Match[str] | None:
        """Match the thinking at the start of an answer; `opened` if the prompt ends with the tag.

        Returns:
            Match with the groups `open`, `thinking` and `close`, or None. The groups of the tags
            include surrounding white space.
        """
        return _pattern(self.open, self.close, opened).match(text) if self.close in text else None

    def answer(self, text: str, *, opened: bool = False) -> str:
        """Return an answer without the thinking at its start; see `match`."""
        block = self.match(text, opened=opened)
        return text[block.end() :] if block else text

    def pending(self, text: str, *, opened: bool = False) -> bool:
        """Return whether more text may turn all of an unfinished answer into thinking."""
        start = text.lstrip()
        begun = opened or start.startswith(self.open) or self.open.startswith(start)
        return begun and self.close not in text


@cache
def _pattern(opening: str, closing: str, opened: bool) -> re.Pattern[str]:
    start = rf"\s*{re.escape(opening)}\s*"
    # After a prompt with the opening tag, an answer may start inside the thinking.
    start += r"|\s*" if opened else ""
    end = rf"\s*{re.escape(closing)}\s*"
    return re.compile(f"(?P<open>{start})(?P<thinking>.*?)(?P<close>{end})", re.DOTALL)


@cache
def thinking_tags(template: str) -> ThinkingTags:
    """Find the pair of tags of which both occur in a chat template.

    Returns:
        Tags of the template. The default is `<think>` and `</think>`, also if only one of these
        two occurs.
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
    """Return an answer without the thinking at its start, for any of the known tags."""
    begun = text.lstrip()
    for pattern, (_, closing) in zip(_OPENINGS, _FORMS, strict=True):
        if tag := pattern.match(begun):
            return ThinkingTags(tag[0], closing.format(tag[1])).answer(begun)
    return text
