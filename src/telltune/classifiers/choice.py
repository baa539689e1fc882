"""Choose the best of three small classifiers by cross-validation on the labeled examples.

They are class means of a sentence encoder, of TF-IDF, and of both. Unlabeled inputs move the means
by seeded EM. The encoder captures topics, and TF-IDF captures forms. Both together are chosen
unless the labeled examples show that one of them alone is better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from telltune.classifiers.classifier import Classifier, fit_classifier
from telltune.classifiers.features import (
    TextKind,
    joined,
    learn_features,
    prompt_text,
    tfidf_of_others,
)
from telltune.classifiers.heads import Head, fit_head
from telltune.valuation.embeddings import INSTALL, embed, is_installed
from telltune.valuation.folds import draw_folds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example

_FOLDS = 5
# Number of assignments to folds over which accuracy is averaged. With 20 examples one is too noisy.
_ASSIGNMENTS = 3
# Likelihood-ratio test of one parameter at 5%: half of the quantile of chi-squared, in nats.
_GAIN = 1.92
# Candidate factors on scores, from nearly uniform probabilities to twice the logits.
_WEIGHTS = np.geomspace(0.02, 2, 25)
_NAMES: dict[TextKind, str] = {
    "encoder": "sentence encoder",
    "tfidf": "TF-IDF",
    "combined": "encoder and TF-IDF",
}
TEXT_KINDS = tuple(_NAMES)
"""Kinds of vectors that are tried."""
_HEADS: dict[Head, str] = {"centroid": "class means", "em": "EM over the unlabeled inputs"}


class Choice(NamedTuple):
    """Result of `choose_classifier`.

    Attributes:
        classifier: Best classifier, trained on all examples.
        weight: Factor on its scores that maximizes the likelihood of held-out labels.
        gain: How much likelier its weighted scores make all held-out labels, in nats.
        inputs: Vectors of the unlabeled inputs, (inputs, width).
        notes: Accuracies and choice, one sentence each.
    """

    classifier: Classifier
    weight: float
    gain: float
    inputs: Any
    notes: tuple[str, ...]

    @property
    def proven(self) -> bool:
        """Whether it makes the held-out labels significantly likelier than even scores do."""
        return self.gain > _GAIN

    @property
    def calibrated(self) -> Classifier | None:
        """Classifier with its scores multiplied by the weight; None if it is not proven."""
        return self.classifier.weighted(self.weight) if self.proven else None


class _HeldOut(NamedTuple):
    """Scores of labeled examples by classifiers that were not trained on them but knew their label.

    Attributes:
        scores: Shape (examples x assignments, labels).
        labels: Index of the right label of each row, (examples x assignments,).
        some: Whether any example could be held out; else the scores are those of chance.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    some: bool = True

    @property
    def right(self) -> float:
        """Share of the examples whose label has the highest score."""
        return float((self.scores.argmax(axis=1) == self.labels).mean())

    @property
    def examples(self) -> float:
        """Number of examples, averaged over the assignments to folds."""
        return len(self.labels) / _ASSIGNMENTS

    @property
    def weight(self) -> float:
        """Factor on the scores that maximizes the labels' likelihood (temperature scaling)."""
        return float(min(_WEIGHTS, key=self.loss))

    def loss(self, weight: float) -> float:
        """Return the mean negative log-likelihood of the labels, in nats."""
        scores = weight * self.scores
        right = scores[np.arange(len(scores)), self.labels]
        return float((np.logaddexp.reduce(scores, axis=1) - right).mean())


def choose_classifier(
    labeled: Sequence[Example],
    inputs: Sequence[Example],
    seed: int,
    kinds: Sequence[TextKind] = (),
    named: Sequence[Example] = (),
) -> Choice:
    """Choose the classifier under which held-out labels are likeliest.

    An example is held out from classifiers that know its label from others. The encoder or TF-IDF
    alone must make the labels likelier than both together by a likelihood-ratio test at 5%. On
    explicit_language with 20 labels this rule scored 71.2, and the likeliest classifier 66.1 (three
    draws). The same test decides whether the chosen one is proven. `named` are labels with their
    descriptions as prompts, which all classifiers know; see `TaskData.named_labels`.

    With unlabeled inputs, all use EM. On three tasks with 20 and 60 labels, EM was better than
    class means wherever names of labels were known, and held-out labels did not tell. Without
    `kinds`, all that are installed are tried.

    Raises:
        ModelError: `kinds` contains the sentence encoder, which is not installed.
    """
    lacking = not kinds and not is_installed()
    kinds = kinds or (["tfidf"] if lacking else TEXT_KINDS)
    known = (*labeled, *named)
    texts = [prompt_text(example) for example in (*known, *inputs)]
    encoded = None if list(kinds) == ["tfidf"] else embed(texts)
    head: Head = "em" if inputs else "centroid"
    held_out = {
        kind: _held_out(kind, head, _without(kind, texts, encoded), labeled, named, seed)
        for kind in kinds
    }
    losses = {kind: one.examples * one.loss(one.weight) for kind, one in held_out.items()}
    best = min(losses, key=losses.__getitem__)
    if losses.get("combined", np.inf) - losses[best] <= _GAIN:
        best = "combined"
    found, weight = held_out[best], held_out[best].weight
    said = ", ".join(f"{_NAMES[kind]} {one.right:.0%}" for kind, one in held_out.items())
    note = (
        f"Accuracy on held-out labeled examples: {said}."
        if found.some
        else "No labeled example could be held out, because no two prompts have the same label."
    )
    if lacking:
        note += f" The sentence encoder is not installed (`{INSTALL}`)."
    chosen = f"Chosen: {_NAMES[best]} with {_HEADS[head]}."
    gain = found.examples * (found.loss(0) - found.loss(weight))
    if found.some and gain <= _GAIN:
        chosen += " It does not make the held-out labels significantly likelier."
    features = learn_features(best, texts)
    classifier, others = fit_classifier(head, best, features, known, inputs)
    return Choice(classifier, weight, gain, others, (note, chosen))


def _without(
    kind: TextKind, texts: Sequence[str], encoded: Any
) -> Callable[[NDArray[np.intp]], Any]:
    """Return a function from indices of held-out texts to the vectors of all texts.

    Words of held-out texts are unknown, as those of new inputs will be. `encoded` are the vectors
    of the sentence encoder; None if the kind is `tfidf`.
    """
    if kind == "encoder":
        return lambda _: encoded
    tfidf = tfidf_of_others(texts)
    return tfidf if kind == "tfidf" else lambda held: joined(encoded, tfidf(held))


def _held_out(
    kind: TextKind,
    head: Head,
    without: Callable[[NDArray[np.intp]], Any],
    labeled: Sequence[Example],
    named: Sequence[Example],
    seed: int,
) -> _HeldOut:
    """Score each labeled example by classifiers trained on other folds and the inputs.

    An example whose label occurs neither in another fold nor in `named` is left out.

    Args:
        kind: Kind of the vectors.
        head: Kind of the classifiers.
        without: Function from indices of held-out examples to the vectors of all labeled, named
            and unlabeled texts, learned from the others.
        labeled: Labeled examples.
        named: Examples that are never held out.
        seed: Seed of the folds.
    """
    given = [example.answer for example in (*labeled, *named)]
    names, numbers = np.unique(given, return_inverse=True)
    answers, count = names[numbers], len(numbers)
    always = np.arange(len(labeled), count)
    scores, labels = [], []
    for number in range(_ASSIGNMENTS):
        rng = np.random.default_rng((seed, number))
        fold = draw_folds(labeled, _FOLDS, rng, by_label=True)
        for held in np.unique(fold):
            kept = np.concatenate([np.flatnonzero(fold != held), always])
            asked = np.flatnonzero(fold == held)
            known = answers[kept].tolist()
            if not np.isin(answers[asked], known).any():
                continue
            vectors = without(asked)
            scorer = fit_head(head, kind, vectors[kept], known, vectors[count:])
            asked = asked[np.isin(answers[asked], known)]
            found = scorer.scores(vectors[asked])
            # A label that the training folds lack gets the lowest score of all.
            every = np.full((len(asked), len(names)), found.min())
            every[:, np.searchsorted(names, scorer.answers)] = found
            scores.append(every)
            labels.append(numbers[asked])
    if not scores:  # Each label is that of one prompt: as if the scores of one were even.
        even = np.zeros((_ASSIGNMENTS, len(names)))
        return _HeldOut(even, np.full(_ASSIGNMENTS, len(names) - 1), some=False)
    return _HeldOut(np.concatenate(scores), np.concatenate(labels))
