"""Tokenizer that is identified without being loaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from telltune.version import version_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

# Increase this version when the token ids of an example change, to invalidate old caches.
ENCODING_VERSION = 6


@dataclass(frozen=True)
class KnownTokenizer:
    """Identity of a tokenizer, with a function that loads it when needed.

    Attributes:
        identity: Hash of everything that determines the token ids of a text.
    """

    identity: str
    chat_template: str
    load: Callable[[], PreTrainedTokenizerBase]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> KnownTokenizer:
        """Return the `KnownTokenizer` of a loaded tokenizer."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        decisive = (
            tokenizing_code(),
            type(tokenizer).__qualname__,
            backend.to_str() if backend else sorted(tokenizer.get_vocab().items()),
            # Templates write special tokens, and the end of a turn can be one.
            sorted(tokenizer.special_tokens_map.items()),
        )
        identity = hashlib.sha256(repr(decisive).encode()).hexdigest()
        return cls(identity, str(tokenizer.chat_template), lambda: tokenizer)


def tokenizing_code() -> str:
    """Return the versions of the code that encodes examples, without importing it."""
    return f"{ENCODING_VERSION}|{version_of('transformers')}|{version_of('tokenizers')}"
