"""OverPrompt (arXiv 2305.14973): several inputs in one prompt, and their answers in one reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from telltune.data.anchor import anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.examples import as_turns
from telltune.data.task import count_within_budget
from telltune.errors import DataError
from telltune.fitting.build_plan import answer_budget
from telltune.fitting.group_predictor import GroupPredictor, check_one_turn, grouped
from telltune.fitting.predictor import Cost
from telltune.fitting.protocol import Method, teacher_of
from telltune.fitting.trained_method import TrainedMethod
from telltune.inference.labels import labels_of
from telltune.recipe import OverPromptSpec

if TYPE_CHECKING:
    from telltune.data.general import GeneralData
    from telltune.data.task import TaskData
    from telltune.fitting.protocol import Settings
    from telltune.models import LoadedModel


@dataclass(frozen=True)
class OverPrompt(Method):
    """Asks a model about several inputs at once, after solved groups of task examples.

    Attributes:
        by_teacher: Whether the recipe's teacher answers instead of the base model.
    """

    by_teacher: bool = False

    def run(
        self,
        task: TaskData,
        general: GeneralData | None,  # noqa: ARG002 - the protocol of methods
        base: LoadedModel,
        settings: Settings,
    ) -> GroupPredictor:
        """Return a predictor with solved groups in the prompt, and the anchor if the task has one.

        Raises:
            DataError: There are too few task examples for the solved groups, or an example has
                earlier turns, a system turn or tools of its own.
            RecipeError: The recipe has no teacher for the method.
        """
        recipe = settings.recipe
        teacher = teacher_of(recipe, self.name) if self.by_teacher else None
        spec = recipe.over_prompt or OverPromptSpec()
        encoded = Encoder(base.tokenizer).encode(task.train)
        used = count_within_budget(encoded.lengths, recipe.task.max_tokens)
        count = spec.inputs * spec.shots
        if count > used:
            raise DataError(
                f"over_prompt.shots = {spec.shots} groups of {spec.inputs} need {count} examples, "
                f"but there are {used}; lower over_prompt.shots or over_prompt.inputs."
            )
        check_one_turn(task.train[:count])
        groups = [task.train[i : i + spec.inputs] for i in range(0, count, spec.inputs)]
        shown = [grouped(group, spec) for group in groups]
        return GroupPredictor(
            model=base.model if teacher is None else None,
            teacher=teacher,
            tokenizer=anchored_tokenizer(base.tokenizer, task.anchor),
            anchor=task.anchor,
            max_new_tokens=answer_budget(encoded.response_lengths, recipe),
            evaluation=recipe.evaluation,
            labels=labels_of(task, task.train[:used]),
            shots=as_turns(shown),
            cost=Cost(task_examples=count, task_tokens=int(encoded.lengths[:count].sum())),
            spec=spec,
        )


OVER_PROMPT = OverPrompt("over_prompt", "OverPrompt, several inputs per prompt")
OVER_PROMPT_TEACHER = OverPrompt("over_prompt_teacher", "OverPrompt, teacher", by_teacher=True)
SFT_OVER_PROMPT = TrainedMethod(
    "sft_over_prompt",
    "SFT + anchor, several inputs per prompt",
    anchored=True,
    uses_general=False,
    grouped=True,
    # Dev examples are not grouped, so their loss would not show when to stop.
    overrides=(("training.early_stopping", False),),
)
