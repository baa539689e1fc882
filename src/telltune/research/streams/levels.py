"""Lower levels of a cascade: cheap classifiers over a closed set of labels that learn online."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.special import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Level(Protocol):
    """A model below the top model."""

    @property
    def name(self) -> str:
        """Name of the level in records and tables."""
        ...

    def likelihoods(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the likelihood of each label, (texts, labels)."""
        ...

    def learn(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        """Update the model on a small batch of labeled texts."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the arrays and numbers from which `restore` rebuilds the level."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state`."""
        ...


class LinearLevel:
    """Logistic regression on hashed unigrams and bigrams, fitted online.

    Unlike a vocabulary or document frequencies, hashing needs no future texts. Term frequencies
    are damped (1 + ln), and each text vector has length 1. Each update is one AdaGrad step on the
    cross entropy of its batch (Duchi et al., 2011), which suits rare words.

    Args:
        labels: Number of labels.
        features: Number of hash buckets.
        learning_rate: Learning rate of AdaGrad.
    """

    name = "linear"

    def __init__(self, labels: int, *, features: int = 2**18, learning_rate: float = 0.5) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self._hash = HashingVectorizer(
            n_features=features, ngram_range=(1, 2), norm=None, alternate_sign=False
        )
        self.learning_rate = learning_rate
        # Rows are words: an update touches few words, and all labels of a word are contiguous.
        self.weights = np.zeros((features, labels), np.float32)
        self.bias = np.zeros(labels, np.float32)
        self._squares = np.full((features, labels), 1e-6, np.float32)
        self._bias_squares = np.full(labels, 1e-6, np.float32)

    def likelihoods(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the likelihood of each label, (texts, labels)."""
        return self._likely(self._rows(texts))

    def learn(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        """Take one AdaGrad step on a batch."""
        rows = self._rows(texts)
        error = self._likely(rows)
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels)
        # Only words of the batch have a gradient.
        words = np.unique(rows.indices)
        slope = np.asarray((rows[:, words].T @ error), np.float32)
        self._squares[words] += slope**2
        self.weights[words] -= self.learning_rate * slope / np.sqrt(self._squares[words])
        bias = error.sum(0).astype(np.float32)
        self._bias_squares += bias**2
        self.bias -= self.learning_rate * bias / np.sqrt(self._bias_squares)

    def state(self) -> dict[str, Any]:
        """Return the learned state; words whose weights are all zero are omitted."""
        moved = np.flatnonzero(np.abs(self.weights).sum(1))
        return {
            "words": moved,
            "weights": self.weights[moved],
            "squares": self._squares[moved],
            "bias": self.bias.copy(),
            "bias_squares": self._bias_squares.copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state`."""
        kept = {name: np.asarray(value) for name, value in state.items()}
        self.weights[:], self._squares[:] = 0, 1e-6
        self.weights[kept["words"]] = kept["weights"]
        self._squares[kept["words"]] = kept["squares"]
        self.bias[:], self._bias_squares[:] = kept["bias"], kept["bias_squares"]

    def _likely(self, rows: Any) -> NDArray[np.float64]:
        scores = rows @ self.weights + self.bias
        return np.asarray(softmax(scores.astype(np.float64), axis=1))

    def _rows(self, texts: Sequence[str]) -> Any:
        rows = self._hash.transform(texts).astype(np.float32)
        rows.data = 1 + np.log(rows.data)
        lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(1)).ravel())
        rows.data /= np.repeat(np.maximum(lengths, 1e-12), np.diff(rows.indptr))
        return rows


def different_names(levels: Sequence[Level]) -> list[str]:
    """Return the names of the levels, numbered where several have the same."""
    seen: Counter[str] = Counter()
    found = []
    for level in levels:
        seen[level.name] += 1
        found.append(level.name if seen[level.name] == 1 else f"{level.name}_{seen[level.name]}")
    return found
