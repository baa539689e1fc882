"""Task examples in the prompt in place of training: what costs nothing until it is used."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from telltune.data.anchor import anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.examples import as_turns
from telltune.data.task import within
from telltune.errors import DataError
from telltune.inference.labels import closed_set
from telltune.methods.preparation import answer_budget
from telltune.methods.protocol import Cost, Predictor, behind
from telltune.models import context_length

if TYPE_CHECKING:
    from telltune.data.task import GeneralData, TaskData
    from telltune.methods.protocol import Settings
    from telltune.models import BaseModel

__all__ = ["FEW_SHOT"]


@dataclass(frozen=True)
class FewShot:
    """Shows the base model examples, as turns before the question; behind the anchor, if any."""

    name: str
    label: str
    anchored: bool = False
    mixes: bool = False
    trains: bool = False
    sized: bool = True

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
        """
        recipe = settings.recipe
        encoded = Encoder(base.tokenizer).encode(task.train)
        used = within(encoded.lengths, recipe.task.max_tokens)
        budget = answer_budget(encoded.response_lengths, recipe)
        tokenizer = anchored_tokenizer(base.tokenizer, task.anchor)
        encoder = Encoder(tokenizer)
        # A test prompt may be longer than any here; `Predictor` then shows it fewer.
        question = task.train[int(encoded.prompt_lengths.argmax())]
        room = context_length(base.model.config) - budget

        def length(count: int) -> int:
            return len(encoder.prompts([behind(as_turns(task.train[:count]), question)])[0])

        fitting = bisect.bisect_right(range(1, used + 1), room, key=length)
        if fitting == 0:
            raise DataError(
                f"{task.train[0].origin}: one example ({encoded.lengths[0]} tokens) does not fit "
                f"into the model's context beside a question and its answer."
            )
        count = min(recipe.few_shot.examples or fitting, fitting)
        return Predictor(
            model=base.model,
            tokenizer=tokenizer,
            anchor=task.anchor,
            max_new_tokens=budget,
            evaluation=recipe.evaluation,
            labels=closed_set(example.completion for example in task.train[:used]),
            cost=Cost(task_examples=count, task_tokens=int(encoded.lengths[:count].sum())),
            shots=as_turns(task.train[:count]),
        )


FEW_SHOT = FewShot("few_shot", "few-shot in context")
