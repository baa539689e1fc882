"""A tokenizer that is known without being loaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

__all__ = ["ENCODING_VERSION", "KnownTokenizer", "tokenizing_code"]

# Bump when the same example would be encoded to other ids, so that old caches are not read.
ENCODING_VERSION = 5


@dataclass(frozen=True)
class KnownTokenizer:
    """What a tokenizer does, in a hash, and how to get it when there is something to tokenize.

    Attributes:
        identity: A hash of all that decides the ids of a text.
        chat_template: In Jinja.
        load: Gives the tokenizer.
    """

    identity: str
    chat_template: str
    load: Callable[[], PreTrainedTokenizerBase]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> KnownTokenizer:
        """One that is loaded already."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        decisive = (
            tokenizing_code(),
            type(tokenizer).__qualname__,
            backend.to_str() if backend else sorted(tokenizer.get_vocab().items()),
            # Templates write them, and the end of a turn may be one.
            sorted(tokenizer.special_tokens_map.items()),
        )
        identity = hashlib.sha256(repr(decisive).encode()).hexdigest()
        return cls(identity, str(tokenizer.chat_template), lambda: tokenizer)


def tokenizing_code() -> str:
    """The versions of the code that turns examples into ids; asking for them imports none of it."""
    return f"{ENCODING_VERSION}|{version('transformers')}|{version('tokenizers')}"
