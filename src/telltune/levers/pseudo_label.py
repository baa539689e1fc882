"""Pseudo-labels: answers to unlabeled inputs, from small classifiers or from the model itself.

Where the answers are a closed set of labels, class means of a sentence encoder and of TF-IDF are
tried, each with and without seeded EM over the unlabeled inputs. Folds of the labeled examples
choose among the four, and refuse all where none knows more than the most frequent label. A second
view that knows what the model does not is worth more than the model's own opinion (co-training,
arXiv 2202.00828; SemiEvol, arXiv 2410.14745, propagates labels in this way and selects them).

For other answers, or where the recipe says so, adapters trained on the labeled examples with
different seeds answer, and what all of them say is kept (STraTA, arXiv 2109.06270).
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from telltune.classifiers.features import TextKind, learn_features, prompt_text
from telltune.classifiers.heads import Head, fit_head
from telltune.classifiers.seeded_em import class_prior
from telltune.data.task import check_unlabeled
from telltune.errors import RecipeError
from telltune.inference.labels import closed_set
from telltune.levers.protocol import Yield
from telltune.training.progress import phase
from telltune.valuation.folds import draw_folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example
    from telltune.levers.protocol import Answer
    from telltune.recipe import PseudoLabelSpec

__all__ = ["PseudoLabel"]

_FOLDS = 5
# Assignments to folds over which accuracy is averaged. One alone says little of 20 examples.
_ASSIGNMENTS = 3
# How likely a view that knows nothing is to pass for one that does.
_CHANCE = 0.05
_NAMES: dict[TextKind, str] = {"encoder": "sentence encoder", "tfidf": "TF-IDF"}
# The first of those that are equally right labels the inputs.
_HEADS: dict[Head, str] = {"centroid": "class means", "em": "EM over the unlabeled inputs"}


class _View(NamedTuple):
    """One way to label inputs by their vectors."""

    features: TextKind
    head: Head

    def __str__(self) -> str:
        return f"{_NAMES[self.features]} with {_HEADS[self.head]}"


@dataclass(frozen=True)
class PseudoLabel:
    """The lever `pseudo_label`.

    Attributes:
        spec: Who labels, and how many examples come of it at most.
        seed: Seed of the folds; those of the adapters follow it.
        progress: Say what is done.
    """

    spec: PseudoLabelSpec
    seed: int
    progress: bool = False
    name = "pseudo_label"

    def apply(self, labeled: Sequence[Example], inputs: Sequence[Example], answer: Answer) -> Yield:
        """Label unlabeled inputs; see `Lever.apply`.

        Raises:
            RecipeError: There are no unlabeled inputs; or views are to label, and the answers are
                no closed set of labels.
        """
        check_unlabeled(inputs, f"`{self.name}`")
        by = self.spec.by
        is_closed = bool(closed_set(example.completion for example in labeled))
        if by in _NAMES and not is_closed:
            raise RecipeError(
                f"`{self.name}.by: {by}` labels inputs by a closed set of labels, and the training "
                "data's answers are none (at most 100, each twice on average); write `model`."
            )
        found: Yield | None = None
        if is_closed and by != "model":
            with phase("labeling unlabeled inputs", shown=self.progress):
                found = self._by_view(labeled, inputs)
        if by == "model" or (by == "auto" and (found is None or not found.examples)):
            views, found = found, self._by_model(inputs, answer)
            if views is not None:
                seconds = views.seconds + found.seconds
                found = replace(found, notes=(*views.notes, *found.notes), seconds=seconds)
        assert found is not None  # the answers are closed, or the model is asked
        return found

    def _by_view(self, labeled: Sequence[Example], inputs: Sequence[Example]) -> Yield:
        began = time.perf_counter()
        answers = [example.completion for example in labeled]
        features = [f for f in _NAMES if self.spec.by in ("auto", f)]
        texts = [prompt_text(example) for example in (*labeled, *inputs)]
        vectors = {f: learn_features(f, texts)(texts) for f in features}
        views = [_View(f, head) for head in _HEADS for f in features]
        right = {view: self._right(view, vectors[view.features], labeled) for view in views}
        best = max(views, key=lambda view: right[view])
        most = max(Counter(answers).values())
        said = ", ".join(f"{view} {right[view]:.0%}" for view in views)
        note = f"Right on held-out labeled examples: {said}."
        if not _knows(right[best], most, len(answers)):
            reason = "no view knows more than the most frequent label"
            notes = (note, f"The most frequent label is {most / len(answers):.0%} of them.")
            seconds = time.perf_counter() - began
            return Yield(self.name, (), len(inputs), {reason: len(inputs)}, notes, seconds)
        labels, confidence = _label(best, vectors[best.features], answers)
        kept = _most_confident(labels, confidence, class_shares(answers), self.spec.examples)
        made = tuple(
            replace(inputs[i], completion=labels[i], confidence=float(confidence[i])) for i in kept
        )
        refused = {"less confident than those kept": len(inputs) - len(kept)}
        seconds = time.perf_counter() - began
        return Yield(self.name, made, len(inputs), refused, (note, f"Labeled by {best}."), seconds)

    def _right(self, view: _View, vectors: Any, labeled: Sequence[Example]) -> float:
        """Return the share of labeled examples whose label the others and the inputs give."""
        said = np.array([example.completion for example in labeled])
        count, right = len(said), 0
        unlabeled = vectors[count:]
        for number in range(_ASSIGNMENTS):
            rng = np.random.default_rng((self.seed, number))
            fold = draw_folds(labeled, _FOLDS, rng, by_label=True)
            for held in np.unique(fold):
                kept, asked = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
                known = said[kept].tolist()
                head = fit_head(view.head, view.features, vectors[kept], known, unlabeled)
                right += int((np.array(head.best(vectors[asked])) == said[asked]).sum())
        return right / (_ASSIGNMENTS * count)

    def _by_model(self, inputs: Sequence[Example], answer: Answer) -> Yield:
        # Those that are asked cost time, and about two of three come back with one answer.
        some = list(inputs[: self.spec.examples])
        answered = [answer(some, self.seed + 1 + i) for i in range(self.spec.adapters)]
        said = [texts for texts, _ in answered]
        made = tuple(
            replace(example, completion=texts[0])
            for example, texts in zip(some, zip(*said, strict=True), strict=True)
            if texts[0] and len(set(texts)) == 1
        )
        refused = {"the adapters gave different answers": len(some) - len(made)}
        if len(inputs) > len(some):
            refused["not asked"] = len(inputs) - len(some)
        note = f"Labeled by {self.spec.adapters} adapters of the model, where they agree."
        seconds = sum(took for _, took in answered)
        return Yield(self.name, made, len(inputs), refused, (note,), seconds)


def class_shares(answers: Sequence[str]) -> dict[str, float]:
    """Return the prior share of each label; see `class_prior`."""
    labels, targets = np.unique(np.array(answers), return_inverse=True)
    return dict(zip(labels.tolist(), class_prior(targets, len(labels)).tolist(), strict=True))


def _knows(right: float, most: int, count: int) -> bool:
    """Whether so many right answers are more than the most frequent label would give by chance."""
    from scipy.stats import binomtest

    found = binomtest(round(right * count), count, most / count, alternative="greater")
    return bool(found.pvalue < _CHANCE)


def _label(
    view: _View, vectors: Any, answers: Sequence[str]
) -> tuple[list[str], NDArray[np.float64]]:
    """Return the label of each unlabeled input, and the share that its class has of it."""
    labeled, unlabeled = vectors[: len(answers)], vectors[len(answers) :]
    scorer = fit_head(view.head, view.features, labeled, answers, unlabeled)
    return scorer.best(unlabeled), scorer.confidence(unlabeled)


def _most_confident(
    labels: Sequence[str],
    confidence: NDArray[np.float64],
    prior: dict[str, float],
    most: int,
) -> list[int]:
    """Return which inputs to keep, in their order.

    Labels take turns in proportion to their shares, each with its most confident input left.

    Args:
        labels: Of each input.
        confidence: Of each label, (inputs,).
        prior: Share of each label among those that are kept, while it has inputs.
        most: How many to keep.
    """
    turn = np.empty(len(labels))
    given = np.array(labels)
    for label, share in prior.items():
        there = np.flatnonzero(given == label)
        ranked = there[np.argsort(-confidence[there], kind="stable")]
        turn[ranked] = (np.arange(len(ranked)) + 0.5) / share
    kept: list[int] = np.sort(np.argsort(turn, kind="stable")[:most]).tolist()
    return kept
