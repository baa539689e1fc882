"""Few-shot prompting: task examples in the prompt instead of training.

The shots are the first examples of the draw, or the nearest examples to each question by a sentence
encoder (after KATE, arXiv 2101.06804). Answers by likelihood may be calibrated.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.classifiers.features import prompt_text
from telltune.clock import clock
from telltune.data.anchor import anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.examples import Example, Message, as_turns, prepend_shots
from telltune.data.task import TaskData, count_within_budget
from telltune.errors import DataError
from telltune.fitting.build_plan import answer_budget
from telltune.fitting.predictor import Cost, Predictor
from telltune.fitting.protocol import Method, Settings, teacher_of
from telltune.inference.labels import labels_of, need_labels
from telltune.inference.scoring import label_nll
from telltune.models import LoadedModel, context_length
from telltune.valuation.embeddings import embed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from telltune.data.general import GeneralData

_NEAREST = 8
"""Default number of nearest examples per prompt, whose computation prompts cannot share."""
_CONTENT_FREE = ("N/A", "[MASK]", "")
"""Content-free inputs of arXiv 2102.09690, section 5."""


@dataclass(frozen=True)
class FewShot(Method):
    """Shows the base model examples as turns before the question, with the anchor if there is one.

    Attributes:
        calibrates: Whether to calibrate the label likelihoods; see `CalibratedPredictor`.
        by_teacher: Whether the recipe's teacher answers instead of the base model.
        overrides: Recipe keys, such as `few_shot.choose`, and values that override the recipe's.
    """

    calibrates: bool = False
    by_teacher: bool = False
    overrides: tuple[tuple[str, Any], ...] = ()

    def labels(self, task: TaskData, examples: Sequence[Example]) -> tuple[str, ...]:
        """Return the labels; () if the answers are not a closed set.

        Raises:
            RecipeError: The method calibrates labels, and there are none.
        """
        labels = labels_of(task, examples)
        if self.calibrates:
            answers = [example.completion for example in examples]
            need_labels(labels, f"method `{self.name}`", "remove it, use `few_shot`", answers)
        return labels

    def run(
        self,
        task: TaskData,
        general: GeneralData | None,  # noqa: ARG002 - the protocol of methods
        base: LoadedModel,
        settings: Settings,
    ) -> Predictor:
        """Return a predictor with the recipe's number of shots, or as many as the context holds.

        The teacher is shown what the base model would be shown, or the recipe's number of shots.

        Raises:
            DataError: The model's context cannot hold a single example.
            RecipeError: The method calibrates labels, and the answers are not a closed set. Or the
                recipe has no teacher for the method.
            ModelError: The recipe asks for nearest examples, and the sentence encoder is not
                installed.
        """
        recipe = settings.recipe.with_keys(self.overrides)
        teacher = teacher_of(recipe, self.name) if self.by_teacher else None
        encoded = Encoder(base.tokenizer).encode(task.train)
        used = count_within_budget(encoded.lengths, recipe.task.max_tokens)
        examples = task.train[:used]
        nearest = recipe.few_shot.choose == "nearest"
        order = np.arange(used)
        if nearest:
            # Any examples chosen for a question need at most the room of the longest ones.
            order = np.argsort(-encoded.lengths[:used], kind="stable")
        shown = [examples[i] for i in order]
        budget = answer_budget(encoded.response_lengths, recipe)
        tokenizer = anchored_tokenizer(base.tokenizer, task.anchor)
        encoder = Encoder(tokenizer)
        # A test prompt may be longer than all of these; `Predictor` then shows fewer shots.
        question = task.train[int(encoded.prompt_lengths.argmax())]
        room = context_length(base.model.config, recipe.training.max_length) - budget

        def length(count: int) -> int:
            return len(encoder.prompts([prepend_shots(as_turns(shown[:count]), question)])[0])

        fitting = bisect.bisect_right(range(1, used + 1), room, key=length)
        if teacher is not None and recipe.few_shot.examples:
            fitting = used
        if fitting == 0:
            raise DataError(
                f"{shown[0].origin}: one example ({encoded.lengths[order[0]]} tokens) does not fit "
                f"into the model's context with a question and its answer."
            )
        count = min(recipe.few_shot.examples or (_NEAREST if nearest else fitting), fitting)
        common: dict[str, Any] = {
            "model": base.model if teacher is None else None,
            "teacher": teacher,
            "tokenizer": tokenizer,
            "anchor": task.anchor,
            "max_new_tokens": budget,
            "evaluation": recipe.evaluation,
            "labels": self.labels(task, examples),
        }
        if nearest:
            began = clock()
            vectors = embed([prompt_text(example) for example in examples])
            # All examples count, because any of them may be shown.
            cost = Cost(used, int(encoded.lengths[:used].sum()), seconds=clock() - began)
            return NearestPredictor(
                **common, cost=cost, examples=examples, vectors=vectors, count=count
            )
        kind = CalibratedPredictor if self.calibrates else Predictor
        cost = Cost(task_examples=count, task_tokens=int(encoded.lengths[:count].sum()))
        return kind(**common, cost=cost, shots=as_turns(examples[:count]))


@dataclass
class NearestPredictor(Predictor):
    """Puts the examples nearest to each prompt before it, the nearest last.

    Attributes:
        examples: Examples to choose from.
        vectors: Unit-length sentence embeddings of their prompts, (examples, width).
        count: Number of examples per prompt.
    """

    examples: tuple[Example, ...] = field(kw_only=True)
    vectors: NDArray[np.float32] = field(kw_only=True)
    count: int = field(kw_only=True)

    def _shots_for(self, examples: Sequence[Example]) -> list[tuple[Message, ...]]:
        near = embed([prompt_text(example) for example in examples]) @ self.vectors.T
        order = np.argsort(-near, axis=1, kind="stable")[:, : self.count]
        return [as_turns(self.examples[i] for i in row[::-1]) for row in order]

    def _half(self, shots: tuple[Message, ...]) -> tuple[Message, ...]:
        """Return the nearer half."""
        return shots[len(shots) - len(shots) // 4 * 2 :]


@dataclass
class CalibratedPredictor(Predictor):
    """Answers with the most likely label relative to content-free inputs.

    The shots make some labels more likely for any input, e.g. frequent labels and the last one.
    Contextual calibration (Zhao et al. 2021, arXiv 2102.09690, section 5) measures this bias on
    inputs without content. Batch calibration (Zhou et al. 2023, arXiv 2309.17249) uses the mean
    over the test inputs instead. It is not used here, because an answer would depend on the other
    inputs, and a single input has no mean.
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
    """Divide the probability of each label by its mean probability for content-free inputs.

    The probabilities of the labels are normalized to a sum of 1 before the mean is taken
    (arXiv 2102.09690, section 5, with W = diag(p)^-1 and b = 0).

    Args:
        nll: Negative log-likelihood of labels in nats, (prompts, labels).
        content_free: Negative log-likelihood after content-free inputs in nats, (inputs, labels).

    Returns:
        Negative log of the quotients, normalized to a sum of 1, (prompts, labels).
    """
    usual = (-content_free).log_softmax(dim=1).logsumexp(dim=0) - math.log(len(content_free))
    return -(-nll - usual).log_softmax(dim=1)


FEW_SHOT = FewShot("few_shot", "few-shot in context")
FEW_SHOT_TEACHER = FewShot("few_shot_teacher", "few-shot, teacher", by_teacher=True)
FEW_SHOT_NEAREST = FewShot(
    "few_shot_nearest", "few-shot, nearest examples", overrides=(("few_shot.choose", "nearest"),)
)
FEW_SHOT_CALIBRATED = FewShot(
    "few_shot_calibrated",
    "few-shot, calibrated labels",
    calibrates=True,
    overrides=(("few_shot.choose", "drawn"), ("evaluation.answers", "likelihood")),
)
