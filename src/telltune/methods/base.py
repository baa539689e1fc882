"""Untrained base model with or without the anchor, as a reference for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from telltune.data.anchor import anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.fitting.build_plan import answer_budget, check_needs
from telltune.fitting.predictor import Predictor
from telltune.fitting.protocol import Method, Settings
from telltune.inference.labels import labels_of

if TYPE_CHECKING:
    from telltune.data.general import GeneralData
    from telltune.data.task import TaskData
    from telltune.models import LoadedModel


@dataclass(frozen=True)
class Untrained(Method):
    """Answers with the base model."""

    depends_on_size: bool = False

    def run(
        self,
        task: TaskData,
        general: GeneralData | None,  # noqa: ARG002 - the protocol of methods
        base: LoadedModel,
        settings: Settings,
    ) -> Predictor:
        """Return a predictor of the base; task responses only set the answer length and labels."""
        check_needs(self, anchored=task.anchor is not None, general=True)
        anchor = task.anchor if self.anchored else None
        lengths = Encoder(base.tokenizer).encode(task.train).response_lengths
        return Predictor(
            model=base.model,
            tokenizer=anchored_tokenizer(base.tokenizer, anchor),
            anchor=anchor,
            max_new_tokens=answer_budget(lengths, settings.recipe),
            evaluation=settings.recipe.evaluation,
            labels=labels_of(task, task.train),
        )


BASE = Untrained("base", "base model", anchored=False)
BASE_ANCHOR = Untrained("base_anchor", "base model + anchor", anchored=True)
