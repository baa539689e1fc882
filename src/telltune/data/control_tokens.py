"""Control tokens of a tokenizer, and marks that prevent data from producing them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Private-use characters without a meaning in text. If data contain one of them, it is shielded like
# a control token. The text between two marks may therefore be a closing mark.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
MARKED = re.compile(f"{_OPEN}({_CLOSE}|[^{_CLOSE}]+){_CLOSE}")
"""Pattern of a shielded text with its marks; group 1 is the text."""


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the texts of the tokens that a tokenizer marks as special, such as `<|im_end|>`."""
    special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    return sorted(special.union(tokenizer.all_special_tokens))


class ControlTokens:
    """The control tokens of one tokenizer.

    Attributes:
        ids: Ids of the control tokens.
        texts: Their texts.
        written: Pattern that matches any control token in a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._added = {str(token): i for i, token in tokenizer.added_tokens_decoder.items()}
        self.ids: frozenset[int] = frozenset(
            i for i, token in tokenizer.added_tokens_decoder.items() if token.special
        ).union(tokenizer.all_special_ids)
        self.texts = control_tokens(tokenizer)
        self._compile()

    def add_end(self, tail: str) -> None:
        """Add the added token that a chat template writes right after an answer, if there is one.

        It ends the turn also if the tokenizer does not mark it as special.
        """
        found = [text for text in self._added if text.strip() and tail.lstrip().startswith(text)]
        for text in sorted(found, key=len)[-1:]:
            self.ids |= {self._added[text]}
            self.texts = sorted({*self.texts, text})
            self._compile()

    def _compile(self) -> None:
        longest_first = sorted(self.texts, key=len, reverse=True)
        texts = [re.escape(text) for text in longest_first if text]
        self.written = re.compile("|".join(texts) or "(?!)")
        self._shielded = re.compile("|".join([*texts, _OPEN, _CLOSE]))

    def shield(self, text: str) -> str:
        """Put marks around each control token in a text from data, for `MARKED` to match."""
        return self._shielded.sub(lambda m: f"{_OPEN}{m.group()}{_CLOSE}", text)

    @staticmethod
    def is_shielded(text: str) -> bool:
        """Return whether a text contains marks."""
        return _OPEN in text
