"""Prompts as vectors of length 1: by a frozen sentence encoder, or by the words in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from telltune.valuation.embeddings import embed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from telltune.data.examples import Example

__all__ = ["Features", "Vectorize", "prompt_text", "vectorizer"]

Features = Literal["encoder", "tfidf"]
Vectorize: TypeAlias = "Callable[[Sequence[str]], Any]"
"""Turns texts into vectors at length 1, (texts, width): an array, or a sparse one for TF-IDF."""

# Words and single punctuation marks; how a question opens and ends tells as much as its nouns.
_WORD = r"(?u)\w+|[^\w\s]"


def prompt_text(example: Example) -> str:
    """Return the prompt and the turns before it, without the system turn."""
    turns = [turn.content for turn in example.history if turn.role != "system"]
    return "\n".join([*turns, example.prompt])


def vectorizer(features: Features, texts: Sequence[str]) -> Vectorize:
    """Return what turns texts into vectors.

    Args:
        features: all-MiniLM-L6-v2, or TF-IDF of words and punctuation marks.
        texts: TF-IDF learns words and their document frequencies from them.
    """
    if features == "encoder":
        return embed
    from sklearn.feature_extraction.text import TfidfVectorizer

    found = TfidfVectorizer(sublinear_tf=True, token_pattern=_WORD)
    found.fit(texts)
    vectorize: Vectorize = found.transform
    return vectorize
