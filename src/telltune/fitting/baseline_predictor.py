"""Predictor of the baselines, which answers with a small classifier."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from telltune.fitting.protocol import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from telltune.classifiers.classifier import Classifier
    from telltune.data.examples import Example


@dataclass
class BaselinePredictor(Predictor):
    """Answers with one of the answers in the training data.

    Attributes:
        classifier: Classifier that chooses the answer to a prompt.
    """

    classifier: Classifier = field(kw_only=True)

    def predict(
        self, examples: Sequence[Example], *, on_done: Callable[[int], None] | None = None
    ) -> list[str]:
        """Answer each example's prompt; completions are ignored."""
        if not examples:
            return []
        answers = self.classifier.best(examples)
        if on_done is not None:
            on_done(len(examples))
        return answers

    def label_scores(
        self, examples: Sequence[Example], *, on_done: Callable[[int], None] | None = None
    ) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Return the answers and their scores; with `knn`, one for each training example."""
        scores = self.classifier.scores(examples)
        if on_done is not None:
            on_done(len(examples))
        return self.classifier.scorer.answers, scores
