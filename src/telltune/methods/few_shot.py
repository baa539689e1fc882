"""Task examples in the prompt in place of training: what costs nothing until it is used.

Shown are the first examples of the draw, or for each question those nearest to it (after KATE,
arXiv 2101.06804, with a sentence encoder). Answers by likelihood may be calibrated.
"""

from __future__ import annotations

import bisect
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.classifiers.features import prompt_text
from telltune.data.anchor import anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.examples import Example, as_turns, behind
from telltune.data.task import within
from telltune.errors import DataError
from telltune.inference.labels import closed_set, label_nll, need_labels
from telltune.methods.preparation import answer_budget
from telltune.methods.protocol import Cost, Predictor
from telltune.models import context_length
from telltune.valuation.embeddings import embed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from telltune.data.examples import Message
    from telltune.data.task import GeneralData, TaskData
    from telltune.methods.protocol import Settings
    from telltune.models import BaseModel

__all__ = ["FEW_SHOT", "FEW_SHOT_CALIBRATED", "FEW_SHOT_NEAREST", "FewShot", "calibrated"]

_NEAREST = 8
"""Examples that a prompt of its own shows: no two prompts share what is computed of them."""
_CONTENT_FREE = ("N/A", "[MASK]", "")
"""Inputs that say nothing, as in arXiv 2102.09690, section 5."""


@dataclass(frozen=True)
class FewShot:
    """Shows the base model examples, as turns before the question; behind the anchor, if any.

    Attributes:
        name: Name in recipes and tables.
        label: Name for people.
        calibrates: Whether to calibrate how likely each label is; see `CalibratedPredictor`.
        sets: Recipe keys, such as `few_shot.choose`, and their values in place of the recipe's.
    """

    name: str
    label: str
    calibrates: bool = False
    sets: tuple[tuple[str, Any], ...] = ()
    anchored: bool = False
    mixes: bool = False
    trains: bool = False
    sized: bool = True

    def labels_of(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """Return the labels that answers may be; () where they are no closed set.

        Raises:
            RecipeError: The method calibrates labels, and there are none.
        """
        labels = closed_set(example.completion for example in examples)
        if self.calibrates:
            need_labels(labels, f"method `{self.name}`", "leave it out, or use `few_shot`")
        return labels

    def run(
        self,
        task: TaskData,
        general: GeneralData | None,  # noqa: ARG002 - the protocol of methods
        base: BaseModel,
        settings: Settings,
    ) -> Predictor:
        """As many examples as the recipe says, or as leave room for a question and its answer.

        Raises:
            DataError: Not even one fits into the model's context.
            RecipeError: The method calibrates labels, and the answers are no closed set.
            ModelError: The nearest are to be shown, and the sentence encoder is not installed.
        """
        recipe = settings.recipe.with_keys(self.sets)
        encoded = Encoder(base.tokenizer).encode(task.train)
        used = within(encoded.lengths, recipe.task.max_tokens)
        examples = task.train[:used]
        nearest = recipe.few_shot.choose == "nearest"
        order = np.arange(used)
        if nearest:
            # Whichever are chosen for a question, they take no more room than the longest.
            order = np.argsort(-encoded.lengths[:used], kind="stable")
        shown = [examples[i] for i in order]
        budget = answer_budget(encoded.response_lengths, recipe)
        tokenizer = anchored_tokenizer(base.tokenizer, task.anchor)
        encoder = Encoder(tokenizer)
        # A test prompt may be longer than any here; `Predictor` then shows it fewer.
        question = task.train[int(encoded.prompt_lengths.argmax())]
        room = context_length(base.model.config) - budget

        def length(count: int) -> int:
            return len(encoder.prompts([behind(as_turns(shown[:count]), question)])[0])

        fitting = bisect.bisect_right(range(1, used + 1), room, key=length)
        if fitting == 0:
            raise DataError(
                f"{shown[0].origin}: one example ({encoded.lengths[order[0]]} tokens) does not fit "
                f"into the model's context beside a question and its answer."
            )
        count = min(recipe.few_shot.examples or (_NEAREST if nearest else fitting), fitting)
        common: dict[str, Any] = {
            "model": base.model,
            "tokenizer": tokenizer,
            "anchor": task.anchor,
            "max_new_tokens": budget,
            "evaluation": recipe.evaluation,
            "labels": self.labels_of(examples),
        }
        if nearest:
            began = time.perf_counter()
            vectors = embed([prompt_text(example) for example in examples])
            # Any of them may be shown.
            cost = Cost(
                used, int(encoded.lengths[:used].sum()), seconds=time.perf_counter() - began
            )
            return NearestPredictor(
                **common, cost=cost, examples=examples, vectors=vectors, count=count
            )
        kind = CalibratedPredictor if self.calibrates else Predictor
        cost = Cost(task_examples=count, task_tokens=int(encoded.lengths[:count].sum()))
        return kind(**common, cost=cost, shots=as_turns(examples[:count]))


@dataclass
class NearestPredictor(Predictor):
    """Shows each prompt the examples nearest to it, the nearest last.

    Attributes:
        examples: Those to choose from.
        vectors: The sentence encoder's of their prompts, of length 1, (examples, width).
        count: Number of examples shown.
    """

    examples: tuple[Example, ...] = field(kw_only=True)
    vectors: NDArray[np.float32] = field(kw_only=True)
    count: int = field(kw_only=True)

    def _shots_for(self, examples: Sequence[Example]) -> list[tuple[Message, ...]]:
        near = embed([prompt_text(example) for example in examples]) @ self.vectors.T
        order = np.argsort(-near, axis=1, kind="stable")[:, : self.count]
        return [as_turns(self.examples[i] for i in row[::-1]) for row in order]

    def _half(self, shots: tuple[Message, ...]) -> tuple[Message, ...]:
        """The nearer half."""
        return shots[len(shots) - len(shots) // 4 * 2 :]


@dataclass
class CalibratedPredictor(Predictor):
    """Answers with the label that is likelier behind a prompt than behind one that says nothing.

    What is in the shots (which label is frequent, which comes last) makes some labels likelier
    whatever is asked. Contextual calibration (Zhao et al. 2021, arXiv 2102.09690, section 5)
    measures that on inputs without content. Batch calibration (Zhou et al. 2023, arXiv 2309.17249)
    takes the mean over the test inputs in their place; an answer would then depend on what else is
    asked, and where one input comes alone there is no mean.
    """

    def _label_nll(
        self,
        prompts: list[list[int]],
        labels: list[list[int]],
        on_done: Callable[[int], None] | None,
    ) -> Tensor:
        nothing = [Example(text, "") for text in _CONTENT_FREE]
        free = label_nll(self.model, self._prompts(nothing, self._shots_for(nothing)), labels)
        return calibrated(super()._label_nll(prompts, labels, on_done), free)


def calibrated(nll: Tensor, content_free: Tensor) -> Tensor:
    """Divide the probability of each label by that behind inputs without content.

    Of the latter the mean over the inputs is taken, where the labels' probabilities sum to 1
    (arXiv 2102.09690, section 5, with W = diag(p)^-1 and b = 0).

    Args:
        nll: Negative log-likelihood of labels, in nats, (prompts, labels).
        content_free: Likewise behind inputs without content, (inputs, labels).

    Returns:
        The same of the quotients, brought to a sum of 1, (prompts, labels).
    """
    usual = (-content_free).log_softmax(dim=1).logsumexp(dim=0) - math.log(len(content_free))
    return -(-nll - usual).log_softmax(dim=1)


FEW_SHOT = FewShot("few_shot", "few-shot in context")
FEW_SHOT_NEAREST = FewShot(
    "few_shot_nearest", "few-shot, nearest examples", sets=(("few_shot.choose", "nearest"),)
)
FEW_SHOT_CALIBRATED = FewShot(
    "few_shot_calibrated",
    "few-shot, calibrated labels",
    calibrates=True,
    sets=(("few_shot.choose", "drawn"), ("evaluation.answers", "likelihood")),
)
