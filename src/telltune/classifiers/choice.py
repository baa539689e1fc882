"""Which small classifier knows a task's labels: folds of the labeled examples choose among four.

These are class means of a sentence encoder and of TF-IDF, each with and without seeded EM over
unlabeled inputs. The encoder knows topics, and TF-IDF knows forms.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from telltune.classifiers.classifier import Classifier
from telltune.classifiers.features import learn_features, prompt_text
from telltune.classifiers.heads import fit_head
from telltune.valuation.embeddings import INSTALL, is_installed
from telltune.valuation.folds import draw_folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.classifiers.features import TextKind
    from telltune.classifiers.heads import Head
    from telltune.data.examples import Example

__all__ = ["TEXT_KINDS", "Choice", "choose_classifier"]

_FOLDS = 5
# Assignments to folds over which accuracy is averaged. One alone says little of 20 examples.
_ASSIGNMENTS = 3
# How likely a classifier that knows nothing is to pass for one that does.
_CHANCE = 0.05
# Factors on scores that are tried: nearly all alike, as they are, twice as sure.
_WEIGHTS = np.geomspace(0.02, 2, 25)
_NAMES: dict[TextKind, str] = {"encoder": "sentence encoder", "tfidf": "TF-IDF"}
TEXT_KINDS = tuple(_NAMES)
"""Kinds of vectors that are tried."""
# The first of those that are equally right is chosen.
_HEADS: dict[Head, str] = {"centroid": "class means", "em": "EM over the unlabeled inputs"}


class _Candidate(NamedTuple):
    features: TextKind
    head: Head

    def __str__(self) -> str:
        return f"{_NAMES[self.features]} with {_HEADS[self.head]}"


class Choice(NamedTuple):
    """Result of `choose_classifier`.

    Attributes:
        classifier: The best one, learned from all examples; None where none knows the labels.
        weight: Factor on its scores that makes held-out labels likeliest.
        inputs: Vectors of the unlabeled inputs, (inputs, width).
        notes: How they did, one sentence each.
    """

    classifier: Classifier | None
    weight: float
    inputs: Any
    notes: tuple[str, ...]

    @property
    def calibrated(self) -> Classifier | None:
        """The classifier with its scores multiplied by the weight."""
        return None if self.classifier is None else self.classifier.weighted(self.weight)


class _HeldOut(NamedTuple):
    """Scores of labeled examples by classifiers that did not see them.

    Attributes:
        scores: Shape (examples x assignments, labels).
        labels: Number of the right label of each, (examples x assignments,).
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]

    @property
    def right(self) -> float:
        """Share of the examples whose label has the highest score."""
        return float((self.scores.argmax(axis=1) == self.labels).mean())

    @property
    def weight(self) -> float:
        """Factor on the scores that makes the right labels likeliest (temperature scaling)."""

        def loss(weight: float) -> float:
            scores = weight * self.scores
            right = scores[np.arange(len(scores)), self.labels]
            return float((np.logaddexp.reduce(scores, axis=1) - right).mean())

        return float(min(_WEIGHTS, key=loss))


def choose_classifier(
    labeled: Sequence[Example],
    inputs: Sequence[Example],
    seed: int,
    kinds: Sequence[TextKind] = (),
) -> Choice:
    """Choose the classifier that is right most often on held-out labeled examples.

    One that is right no more often than the most frequent label explains (binomial test at 5%)
    knows nothing.

    Args:
        labeled: Examples whose completions are a closed set of labels.
        inputs: Unlabeled inputs; EM is tried where there are any.
        seed: Seed of the folds.
        kinds: Vectors to try; all that this machine has, if not given.

    Raises:
        ModelError: `kinds` has the sentence encoder, and it is not installed.
    """
    lacking = not kinds and not is_installed()
    kinds = kinds or (["tfidf"] if lacking else TEXT_KINDS)
    answers = [example.completion for example in labeled]
    texts = [prompt_text(example) for example in (*labeled, *inputs)]
    features = {kind: learn_features(kind, texts) for kind in kinds}
    vectors = {kind: features[kind](texts) for kind in kinds}
    tried = [_Candidate(kind, head) for head in _HEADS if inputs or head != "em" for kind in kinds]
    held_out = {one: _held_out(one, vectors[one.features], labeled, seed) for one in tried}
    best = max(tried, key=lambda one: held_out[one].right)
    right, weight = held_out[best].right, held_out[best].weight
    said = ", ".join(f"{one} {held_out[one].right:.0%}" for one in tried)
    note = f"Right on held-out labeled examples: {said}."
    if lacking:
        note += f" The sentence encoder is not installed (`{INSTALL}`)."
    ours = vectors[best.features]
    known, others = ours[: len(labeled)], ours[len(labeled) :]
    most = max(Counter(answers).values())
    if not _knows(right, most, len(answers)):
        share = f"The most frequent label is {most / len(answers):.0%} of them."
        return Choice(None, weight, others, (note, share))
    scorer = fit_head(best.head, best.features, known, answers, others)
    classifier = Classifier(features[best.features], scorer)
    return Choice(classifier, weight, others, (note, f"Chosen: {best}."))


def _held_out(one: _Candidate, vectors: Any, labeled: Sequence[Example], seed: int) -> _HeldOut:
    """Score each labeled example by what the others and the inputs teach."""
    names, numbers = np.unique([example.completion for example in labeled], return_inverse=True)
    answers, unlabeled = names[numbers], vectors[len(numbers) :]
    scores, labels = [], []
    for number in range(_ASSIGNMENTS):
        rng = np.random.default_rng((seed, number))
        fold = draw_folds(labeled, _FOLDS, rng, by_label=True)
        for held in np.unique(fold):
            kept, asked = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
            known = answers[kept].tolist()
            head = fit_head(one.head, one.features, vectors[kept], known, unlabeled)
            found = head.scores(vectors[asked])
            # A label that the others lack is as unlikely as the unlikeliest.
            every = np.full((len(asked), len(names)), found.min())
            every[:, np.searchsorted(names, head.answers)] = found
            scores.append(every)
            labels.append(numbers[asked])
    return _HeldOut(np.concatenate(scores), np.concatenate(labels))


def _knows(right: float, most: int, count: int) -> bool:
    """Whether so many right answers are more than the most frequent label would give by chance."""
    from scipy.stats import binomtest

    found = binomtest(round(right * count), count, most / count, alternative="greater")
    return bool(found.pvalue < _CHANCE)
