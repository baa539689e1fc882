"""Pseudo-labels: answers to unlabeled inputs, from small classifiers or from the model itself.

If the answers are a closed set of labels, a small classifier labels the inputs; see
`choose_classifier`. A second view with other information than the model's is more useful than the
model's own answers (co-training, arXiv 2202.00828). SemiEvol (arXiv 2410.14745) propagates and
selects labels in this way.

For other answers, or if the recipe requires it, several adapters answer, trained on the labeled
examples with different seeds. Answers on which all of them agree are kept (STraTA, arXiv
2109.06270).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from telltune.classifiers.choice import TEXT_KINDS, choose_classifier
from telltune.classifiers.seeded_em import class_prior
from telltune.clock import clock
from telltune.data.task import TaskData, check_unlabeled
from telltune.errors import RecipeError
from telltune.inference.labels import labels_of, why_no_labels
from telltune.levers.protocol import Answer, Resources, UseAs, Yield
from telltune.training.progress import phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example
    from telltune.recipe import PseudoLabelSpec


@dataclass(frozen=True)
class PseudoLabel:
    """The lever `pseudo_label`.

    Attributes:
        spec: Settings of the lever, such as the labeler and the maximum number of examples.
    """

    spec: PseudoLabelSpec
    name = "pseudo_label"
    use_as: ClassVar[UseAs] = "once"
    needs_unlabeled = True

    def describe(self) -> str:
        """Return a clause for `tell plan`."""
        if self.spec.by == "model":
            return (
                f"{self.spec.adapters} adapters are trained on the task to label up to "
                f"{self.spec.examples:,} unlabeled inputs"
            )
        return f"up to {self.spec.examples:,} unlabeled inputs are labeled and added to the task"

    def apply(self, task: TaskData, resources: Resources) -> Yield:
        """Label unlabeled inputs; see `Lever.apply`.

        The run's seed is that of the folds, and the adapters use the following seeds.

        Raises:
            RecipeError: There are no unlabeled inputs, or a classifier was chosen and the answers
                are not a closed set of labels.
        """
        labeled, inputs, seed = task.train, task.unlabeled, resources.seed
        check_unlabeled(inputs, f"`{self.name}`")
        by = self.spec.by
        no_labels = ""
        if not task.labels:
            no_labels = why_no_labels(example.completion for example in labeled)
        if by in TEXT_KINDS and no_labels:
            raise RecipeError(
                f"`{self.name}.by: {by}` needs a closed set of labels, but {no_labels}; use "
                "`model`."
            )
        if by == "model" or no_labels:
            return self._by_model(inputs, resources.answer, seed)
        with phase("labeling unlabeled inputs", shown=resources.progress):
            return self._by_classifier(task, seed)

    def _by_classifier(self, task: TaskData, seed: int) -> Yield:
        began, inputs = clock(), task.unlabeled
        kinds = [kind for kind in TEXT_KINDS if kind == self.spec.by]
        chosen = choose_classifier(task.train, inputs, seed, kinds, task.named_labels)
        if not chosen.proven:
            refused = {"no classifier makes held-out labels significantly likelier": len(inputs)}
            seconds = clock() - began
            return Yield(self.name, (), len(inputs), refused, chosen.notes, seconds)
        scorer = chosen.classifier.scorer
        labels, confidence = scorer.best(chosen.inputs), scorer.confidence(chosen.inputs)
        shares = class_shares([example.answer for example in (*task.train, *task.named_labels)])
        kept = _most_confident(labels, confidence, shares, self.spec.examples)
        # Made examples are spelled as the labeled ones are, with a line end if they have one.
        spelled = {label.strip(): label for label in labels_of(task, task.train)}
        made = tuple(
            replace(
                inputs[i],
                completion=spelled.get(labels[i], labels[i]),
                confidence=float(confidence[i]),
            )
            for i in kept
        )
        refused = {"less confident than those kept": len(inputs) - len(kept)}
        seconds = clock() - began
        return Yield(self.name, made, len(inputs), refused, chosen.notes, seconds)

    def _by_model(self, inputs: Sequence[Example], answer: Answer, seed: int) -> Yield:
        # Each input costs time, so only as many are answered as examples are wanted. The adapters
        # agree on about two of three.
        some = list(inputs[: self.spec.examples])
        answered = [answer(some, seed + 1 + i) for i in range(self.spec.adapters)]
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


def _most_confident(
    labels: Sequence[str],
    confidence: NDArray[np.float64],
    prior: dict[str, float],
    most: int,
) -> list[int]:
    """Return the indices of the inputs to keep, at most `most`, in ascending order.

    Labels take turns in proportion to their prior shares, each with its most confident remaining
    input. `labels` and `confidence` are those of the inputs, (inputs,).
    """
    turn = np.full(len(labels), np.inf)
    given = np.array(labels)
    for label, share in prior.items():
        there = np.flatnonzero(given == label)
        ranked = there[np.argsort(-confidence[there], kind="stable")]
        turn[ranked] = (np.arange(len(ranked)) + 0.5) / share
    kept: list[int] = np.sort(np.argsort(turn, kind="stable")[:most]).tolist()
    return kept
