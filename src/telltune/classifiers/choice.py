"""Choose the best of four small classifiers by cross-validation on the labeled examples.

The four are class means of a sentence encoder and of TF-IDF, each with and without seeded EM over
unlabeled inputs. The encoder captures topics, and TF-IDF captures forms.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from telltune.classifiers.classifier import Classifier
from telltune.classifiers.features import TextKind, learn_features, prompt_text, tfidf_of_others
from telltune.classifiers.heads import Head, fit_head
from telltune.valuation.embeddings import INSTALL, is_installed
from telltune.valuation.folds import draw_folds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example

_FOLDS = 5
# Number of assignments to folds over which accuracy is averaged. With 20 examples one is too noisy.
_ASSIGNMENTS = 3
# Significance level of the test against the most frequent label.
_CHANCE = 0.05
# Candidate factors on scores, from nearly uniform probabilities to twice the logits.
_WEIGHTS = np.geomspace(0.02, 2, 25)
_NAMES: dict[TextKind, str] = {"encoder": "sentence encoder", "tfidf": "TF-IDF"}
TEXT_KINDS = tuple(_NAMES)
"""Kinds of vectors that are tried."""
# If several are equally accurate, the first is chosen.
_HEADS: dict[Head, str] = {"centroid": "class means", "em": "EM over the unlabeled inputs"}


class _Candidate(NamedTuple):
    features: TextKind
    head: Head

    def __str__(self) -> str:
        return f"{_NAMES[self.features]} with {_HEADS[self.head]}"


class Choice(NamedTuple):
    """Result of `choose_classifier`.

    Attributes:
        classifier: Best classifier, trained on all examples; None if none is significantly better
            than the most frequent label.
        weight: Factor on its scores that maximizes the likelihood of held-out labels.
        inputs: Vectors of the unlabeled inputs, (inputs, width).
        notes: Accuracies and choice, one sentence each.
    """

    classifier: Classifier | None
    weight: float
    inputs: Any
    notes: tuple[str, ...]

    @property
    def calibrated(self) -> Classifier | None:
        """Classifier with its scores multiplied by the weight."""
        return None if self.classifier is None else self.classifier.weighted(self.weight)


class _HeldOut(NamedTuple):
    """Scores of labeled examples by classifiers that were not trained on them.

    Attributes:
        scores: Shape (examples x assignments, labels).
        labels: Index of the right label of each row, (examples x assignments,).
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]

    @property
    def right(self) -> float:
        """Share of the examples whose label has the highest score."""
        return float((self.scores.argmax(axis=1) == self.labels).mean())

    @property
    def weight(self) -> float:
        """Factor on the scores that maximizes the labels' likelihood (temperature scaling)."""

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
    """Choose the classifier with the highest accuracy on held-out labeled examples.

    None is chosen if the best is not significantly better than the most frequent label (binomial
    test at 5%).

    Without unlabeled inputs, EM is not tried. Without `kinds`, all that are installed are tried.

    Raises:
        ModelError: `kinds` contains the sentence encoder, which is not installed.
    """
    lacking = not kinds and not is_installed()
    kinds = kinds or (["tfidf"] if lacking else TEXT_KINDS)
    answers = [example.answer for example in labeled]
    texts = [prompt_text(example) for example in (*labeled, *inputs)]
    features = {kind: learn_features(kind, texts) for kind in kinds}
    vectors = {kind: features[kind](texts) for kind in kinds}
    tried = [_Candidate(kind, head) for head in _HEADS if inputs or head != "em" for kind in kinds]
    # Words of held-out examples are unknown, as those of new inputs will be.
    without: dict[TextKind, Callable[[NDArray[np.intp]], Any]] = {
        kind: tfidf_of_others(texts) if kind == "tfidf" else lambda _: vectors["encoder"]
        for kind in kinds
    }
    held_out = {one: _held_out(one, without[one.features], labeled, seed) for one in tried}
    best = max(tried, key=lambda one: held_out[one].right)
    right, weight = held_out[best].right, held_out[best].weight
    said = ", ".join(f"{one} {held_out[one].right:.0%}" for one in tried)
    note = f"Accuracy on held-out labeled examples: {said}."
    if lacking:
        note += f" The sentence encoder is not installed (`{INSTALL}`)."
    ours = vectors[best.features]
    known, others = ours[: len(labeled)], ours[len(labeled) :]
    most = max(Counter(answers).values())
    if not _knows(right, most, len(answers)):
        share = f"None is significantly above the most frequent label ({most / len(answers):.0%})."
        return Choice(None, weight, others, (note, share))
    scorer = fit_head(best.head, best.features, known, answers, others)
    classifier = Classifier(features[best.features], scorer)
    return Choice(classifier, weight, others, (note, f"Chosen: {best}."))


def _held_out(
    one: _Candidate,
    without: Callable[[NDArray[np.intp]], Any],
    labeled: Sequence[Example],
    seed: int,
) -> _HeldOut:
    """Score each labeled example by classifiers trained on other folds and the inputs.

    Args:
        one: Classifier.
        without: Function from indices of held-out examples to the vectors of all labeled and
            unlabeled texts, learned from the others.
        labeled: Labeled examples.
        seed: Seed of the folds.
    """
    names, numbers = np.unique([example.answer for example in labeled], return_inverse=True)
    answers, count = names[numbers], len(numbers)
    scores, labels = [], []
    for number in range(_ASSIGNMENTS):
        rng = np.random.default_rng((seed, number))
        fold = draw_folds(labeled, _FOLDS, rng, by_label=True)
        for held in np.unique(fold):
            kept, asked = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
            known = answers[kept].tolist()
            vectors = without(asked)
            head = fit_head(one.head, one.features, vectors[kept], known, vectors[count:])
            found = head.scores(vectors[asked])
            # A label that the training folds lack gets the lowest score of all.
            every = np.full((len(asked), len(names)), found.min())
            every[:, np.searchsorted(names, head.answers)] = found
            scores.append(every)
            labels.append(numbers[asked])
    return _HeldOut(np.concatenate(scores), np.concatenate(labels))


def _knows(right: float, most: int, count: int) -> bool:
    """Return whether the accuracy is significantly above that of the most frequent label."""
    from scipy.stats import binomtest

    found = binomtest(round(right * count), count, most / count, alternative="greater")
    return bool(found.pvalue < _CHANCE)
