"""Vectors of prompts from a sentence encoder, TF-IDF, both, or a language model's hidden states.

Features can be saved to a folder and loaded from it. To add a kind, write a class with the methods
of `Features` and add it to `_KINDS`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from telltune.data.anchor import Anchor, anchored_tokenizer
from telltune.errors import ModelError
from telltune.models import LoadedModel, base_revision, load_base, without_rights
from telltune.recipe import ModelSpec
from telltune.valuation.embeddings import (
    EMBEDDED_WIDTH,
    embed,
    encoder_revision,
)
from telltune.valuation.prompt_states import prompt_states

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example

FeatureKind = Literal["encoder", "tfidf", "combined", "states"]
TextKind = Literal["encoder", "tfidf", "combined"]
"""Kinds of features that need no language model."""

# Words and single punctuation marks: the first words and the end of a question are as informative
# as its nouns. Saved baselines depend on this pattern, so another pattern needs another kind.
_WORD = r"(?u)\w+|[^\w\s]"


class Features(Protocol):
    """Function from texts to vectors that can be saved and loaded."""

    kind: ClassVar[str]
    """Name in tell.json."""

    @property
    def width(self) -> int:
        """Length of each vector."""
        ...

    def __call__(self, texts: Sequence[str]) -> Any:
        """Return the vectors of texts, (texts, width): an array or a sparse matrix."""
        ...

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the state for `from_state`: JSON for tell.json, and arrays by name.

        The names `weights` and `bias` are reserved for the classifier.
        """
        ...

    @classmethod
    def from_state(cls, told: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Features:
        """Restore features from their `state`.

        Raises:
            KeyError: A part of the state is missing.
            ModelError: The encoder or model of the features is missing on this machine.
            ValueError: The parts do not fit together.
        """
        ...


@dataclass
class EncoderFeatures:
    """Features of the embedded, frozen sentence encoder; see `embed`.

    Attributes:
        revision: Hash of its weights.
    """

    kind: ClassVar[str] = "encoder"
    width: ClassVar[int] = EMBEDDED_WIDTH
    revision: str = field(default_factory=encoder_revision)

    def __call__(self, texts: Sequence[str]) -> NDArray[Any]:
        """Return the vectors of texts, each of length 1, (texts, width)."""
        return embed(texts)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the encoder's name and revision, without its weights."""
        return {"name": "all-MiniLM-L6-v2", "revision": self.revision}, {}

    @classmethod
    def from_state(
        cls,
        told: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],  # noqa: ARG003 - the protocol of features
    ) -> EncoderFeatures:
        """Restore features from their `state`; see `Features.from_state`."""
        found = cls()
        if found.revision != told["revision"]:
            raise ModelError(
                f"it was fitted with another sentence encoder ({told['revision']}) than the "
                f"installed one ({found.revision}); install the former, or fit again."
            )
        return found


@dataclass
class TfidfFeatures:
    """TF-IDF of words and punctuation marks.

    Attributes:
        vocabulary: Words, in the order of the columns.
        idf: Inverse document frequency of each word, (words,).
    """

    kind: ClassVar[str] = "tfidf"
    vocabulary: tuple[str, ...]
    idf: NDArray[np.float64]

    @classmethod
    def learned(cls, texts: Sequence[str]) -> TfidfFeatures:
        """Learn words and their document frequencies from texts."""
        vectorizer = _vectorizer()
        vectorizer.fit(texts)
        return cls(tuple(vectorizer.get_feature_names_out().tolist()), vectorizer.idf_)

    @property
    def width(self) -> int:
        """Number of words."""
        return len(self.vocabulary)

    @cached_property
    def _made(self) -> Any:
        vectorizer = _vectorizer(self.vocabulary)
        vectorizer.idf_ = self.idf
        return vectorizer

    def __call__(self, texts: Sequence[str]) -> Any:
        """Return the vectors of texts, each of length 1 or 0, as a sparse (texts, width) matrix."""
        return self._made.transform(texts)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the vocabulary, and the array `idf`."""
        return {"vocabulary": list(self.vocabulary)}, {"idf": self.idf}

    @classmethod
    def from_state(
        cls, told: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> TfidfFeatures:
        """Restore features from their `state`; see `Features.from_state`."""
        words, idf = tuple(told["vocabulary"]), arrays["idf"]
        if idf.shape != (len(words),) or len(set(words)) != len(words):
            raise ValueError(f"{len(words)} words but idf of shape {idf.shape}")
        return cls(words, idf)


@dataclass
class CombinedFeatures:
    """Vectors of the sentence encoder and of TF-IDF, joined; see `joined`."""

    kind: ClassVar[str] = "combined"
    encoder: EncoderFeatures
    tfidf: TfidfFeatures

    @property
    def width(self) -> int:
        """Sum of the widths of both."""
        return self.encoder.width + self.tfidf.width

    def __call__(self, texts: Sequence[str]) -> Any:
        """Return the vectors of texts as a sparse (texts, width) matrix."""
        return joined(self.encoder(texts), self.tfidf(texts))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the encoder's name and revision, the vocabulary, and the array `idf`."""
        told, arrays = self.tfidf.state()
        return told | self.encoder.state()[0], arrays

    @classmethod
    def from_state(
        cls, told: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> CombinedFeatures:
        """Restore features from their `state`; see `Features.from_state`."""
        parts = (kind.from_state(told, arrays) for kind in (EncoderFeatures, TfidfFeatures))
        return cls(*parts)  # type: ignore[arg-type]


@dataclass
class StateFeatures:
    """Hidden states of a frozen base model; see `prompt_states`.

    Attributes:
        model: Base model, which is loaded on the first call.
        base: The loaded base model, or None before the first call.
    """

    kind: ClassVar[str] = "states"
    model: ModelSpec
    anchor: Anchor | None
    revision: str
    width: int
    base: LoadedModel | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls, model: ModelSpec, anchor: Anchor | None, base: LoadedModel | None = None
    ) -> StateFeatures:
        """Create the features of a base model, which may be loaded already."""
        base = base or load_base(model)
        width = int(base.model.config.get_text_config().hidden_size)
        return cls(model, anchor, base.revision, width, base)

    def __call__(self, texts: Sequence[str]) -> NDArray[Any]:
        """Return the vectors of texts, (texts, width)."""
        self.base = self.base or load_base(self.model)
        tokenizer = anchored_tokenizer(self.base.tokenizer, self.anchor)
        return prompt_states(self.base.model, tokenizer, texts)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the base model's name and revision, and the anchor."""
        anchor = self.anchor
        told = {
            "model": self.model.model_dump(mode="json"),
            "anchor": anchor and [anchor.prompt, anchor.response, anchor.place],
            "revision": self.revision,
            "width": self.width,
        }
        return told, {}

    @classmethod
    def from_state(
        cls,
        told: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],  # noqa: ARG003 - the protocol of features
    ) -> StateFeatures:
        """Restore features from their `state`; see `Features.from_state`."""
        # A folder from an untrusted source must not run a model's own code.
        model = without_rights(ModelSpec.model_validate(told["model"]))
        revision = base_revision(model)
        if revision != told["revision"]:
            raise ModelError(
                f"it was fitted on revision {told['revision']} of {model.name}, but the revision "
                f"here is {revision}; restore that model, or fit again."
            )
        anchor = None if told["anchor"] is None else Anchor(*told["anchor"])
        return cls(model, anchor, told["revision"], int(told["width"]))


def _vectorizer(vocabulary: Sequence[str] | None = None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, token_pattern=_WORD, vocabulary=vocabulary)


_KINDS: dict[str, type[Features]] = {
    EncoderFeatures.kind: EncoderFeatures,
    TfidfFeatures.kind: TfidfFeatures,
    CombinedFeatures.kind: CombinedFeatures,
    StateFeatures.kind: StateFeatures,
}


def prompt_text(example: Example) -> str:
    """Return the prompt and the turns before it, without the system turn."""
    turns = [turn.content for turn in example.history if turn.role != "system"]
    return "\n".join([*turns, example.prompt])


def learn_features(kind: TextKind, texts: Sequence[str]) -> Features:
    """Return features of texts.

    Args:
        kind: `encoder` for all-MiniLM-L6-v2, `tfidf` for TF-IDF of words and punctuation marks, or
            `combined` for both.
        texts: Texts from which TF-IDF learns words and their document frequencies. Including
            unlabeled texts suits class means but harms logistic regression: on answer_kind with 20
            examples it scored 51 instead of 67 (4 draws, 200 items).
    """
    if kind == "encoder":
        return EncoderFeatures()
    tfidf = TfidfFeatures.learned(texts)
    return tfidf if kind == "tfidf" else CombinedFeatures(EncoderFeatures(), tfidf)


def joined(encoded: NDArray[Any], tfidf: Any) -> Any:
    """Join two kinds of vectors of length 1 to vectors of length 1, as a sparse matrix.

    The cosine of two joined vectors is the mean of the two cosines.

    Args:
        encoded: Vectors of the sentence encoder, (texts, width).
        tfidf: Vectors of TF-IDF, a sparse (texts, words) matrix.
    """
    from scipy.sparse import hstack

    return hstack([encoded, tfidf], format="csr") * np.sqrt(0.5)


def tfidf_of_others(texts: Sequence[str]) -> Callable[[NDArray[np.intp]], Any]:
    """Return a function that learns TF-IDF from a part of the texts.

    Args:
        texts: All texts.

    Returns:
        Function from indices of held-out texts to the vectors of all texts, (texts, words). Words
        and their document frequencies are those of the other texts.
    """
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

    counts = CountVectorizer(token_pattern=_WORD).fit_transform(texts)

    def vectors(held_out: NDArray[np.intp]) -> Any:
        others = counts[np.delete(np.arange(len(texts)), held_out)]
        known = others.getnnz(axis=0) > 0
        learned = TfidfTransformer(sublinear_tf=True).fit(others[:, known])
        return learned.transform(counts[:, known])

    return vectors


def features_from(told: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Features:
    """Restore saved features from their `state`, whose JSON part also has their `kind`.

    Raises:
        KeyError: A part of the state is missing.
        ModelError: The kind is unknown, or the encoder or model is missing on this machine.
        ValueError: The parts do not fit together.
    """
    if told["kind"] not in _KINDS:
        raise ModelError(
            f"it has features `{told['kind']}`, which this version of telltune does not support "
            f"(only {', '.join(_KINDS)}); install the version that wrote it, or fit again."
        )
    return _KINDS[told["kind"]].from_state(told, arrays)
