"""Levels that are baselines: small classifiers on vectors, refitted as labels come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scipy.special import softmax

from telltune.classifiers.features import EncoderFeatures, features_from, learn_features
from telltune.classifiers.heads import Head, LinearScorer, fit_head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.classifiers.features import Features, TextKind
    from telltune.research.streams.spec import HeadKind

_LABELED = 2000
"""Maximum number of labeled texts; older ones are forgotten."""
_INPUTS = 1000
"""Maximum number of texts without a label; older ones are forgotten."""
_GROWTH = 1.1
"""Growth of the number of labeled texts between two fits, so that few fits are needed."""


class HeadLevel:
    """A baseline of telltune, on TF-IDF or on the frozen sentence encoder.

    It is fitted to the texts that the top model has labeled, and EM also to the latest inputs that
    it saw without a label. TF-IDF learns its words from these texts only, never from later ones.

    Args:
        kind: Name of the baseline.
        labels: Number of labels.

    Raises:
        ModelError: The sentence encoder is not installed.
    """

    def __init__(self, kind: HeadKind, labels: int) -> None:
        features, head = kind.split("_")
        self.name: str = kind
        self._count = labels
        self._kind, self._head = cast("TextKind", features), cast("Head", head)
        self._features: Features | None = EncoderFeatures() if features == "encoder" else None
        self._scorer: LinearScorer | None = None
        # Number of labeled texts so far, and at the last fit.
        self._seen = self._fitted = 0
        self._labeled: list[tuple[str, int]] = []
        self._inputs: list[str] = []
        # Vectors of both by the encoder; the columns of TF-IDF change with each fit.
        self._vectors: dict[str, NDArray[Any]] = {}

    def likelihoods(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the likelihood of each label, (texts, labels); 0 for a label not yet seen."""
        self._inputs += texts
        vectors = self._features(texts) if self._features is not None else None
        if self._kind == "encoder" and vectors is not None:
            self._vectors |= zip(texts, vectors, strict=True)
        if len(self._inputs) > 2 * _INPUTS:  # a stream may go on for long without a label
            self._forget()
        if self._scorer is None:
            return np.full((len(texts), self._count), 1 / self._count)
        scores = np.full((len(texts), self._count), -np.inf)
        scores[:, list(map(int, self._scorer.answers))] = self._scorer.scores(vectors)
        return np.asarray(softmax(scores, axis=1))

    def learn(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        """Keep labeled texts, and fit the classifier if there are a tenth more than last time."""
        self._labeled += zip(texts, map(int, labels), strict=True)
        self._seen += len(texts)
        self._forget()
        if self._seen >= _GROWTH * self._fitted and len({label for _, label in self._labeled}) > 1:
            self._fit()
            self._fitted = self._seen

    def _forget(self) -> None:
        """Drop the oldest texts, and the vectors of those dropped.

        Of a text that came several times, the latest place counts, so that it does not matter when
        texts are dropped.
        """
        self._labeled = self._labeled[-_LABELED:]
        known = {text for text, _ in self._labeled}
        latest = [text for text in dict.fromkeys(reversed(self._inputs)) if text not in known]
        self._inputs = latest[:_INPUTS][::-1]
        kept = known.union(self._inputs)
        self._vectors = {text: found for text, found in self._vectors.items() if text in kept}

    def _fit(self) -> None:
        texts = [text for text, _ in self._labeled]
        inputs = self._inputs if self._head == "em" else []
        if self._kind == "tfidf":
            self._features = learn_features("tfidf", [*texts, *inputs])
        known = self._vectors_of(texts)
        others = self._vectors_of(inputs) if inputs else known[:0]
        answers = [str(label) for _, label in self._labeled]
        self._scorer = fit_head(self._head, self._kind, known, answers, others)

    def _vectors_of(self, texts: Sequence[str]) -> Any:
        assert self._features is not None
        if self._kind == "tfidf":
            return self._features(texts)
        new = [text for text in texts if text not in self._vectors]
        if new:
            self._vectors |= zip(new, self._features(new), strict=True)
        return np.stack([self._vectors[text] for text in texts])

    def state(self) -> dict[str, Any]:
        """Return the texts with their vectors, and the classifier."""
        scorer = None
        if self._scorer is not None and self._features is not None:
            told, arrays = self._features.state()
            scorer = {
                "features": {"kind": self._kind, **told},
                "arrays": arrays,
                "weights": self._scorer.weights,
                "bias": self._scorer.bias,
                "answers": list(self._scorer.answers),
            }
        return {
            "seen": self._seen,
            "fitted": self._fitted,
            "labeled": list(self._labeled),
            "inputs": list(self._inputs),
            "vectors": dict(self._vectors),
            "scorer": scorer,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state`.

        Raises:
            ModelError: The state is from another sentence encoder than the installed one.
        """
        self._seen, self._fitted = state["seen"], state["fitted"]
        self._labeled = [(text, label) for text, label in state["labeled"]]
        self._inputs = list(state["inputs"])
        self._vectors = {text: np.asarray(found) for text, found in state["vectors"].items()}
        self._scorer = None
        if kept := state["scorer"]:
            arrays = {name: np.asarray(value) for name, value in kept["arrays"].items()}
            self._features = features_from(kept["features"], arrays)
            weights, bias = np.asarray(kept["weights"]), np.asarray(kept["bias"])
            self._scorer = LinearScorer(weights, bias, tuple(kept["answers"]))
