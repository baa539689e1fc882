"""The shape that SFT, its controls and TELL share: prepare, train, answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from telltune.inference.labels import closed_set
from telltune.methods.adapter_folder import save_adapter
from telltune.methods.preparation import answer_budget, prepare
from telltune.methods.protocol import Cost, Predictor

if TYPE_CHECKING:
    from telltune.data.task import GeneralData, TaskData
    from telltune.methods.protocol import Settings
    from telltune.models import BaseModel

__all__ = ["Trained"]


@dataclass(frozen=True)
class Trained:
    """A method that trains an adapter; methods differ in what they train it on."""

    name: str
    label: str
    anchored: bool
    mixes: bool
    trains: bool = True

    def run(
        self, task: TaskData, general: GeneralData | None, base: BaseModel, settings: Settings
    ) -> Predictor:
        """Train on what the method mixes, save where the settings say, and answer with it."""
        from telltune.training.adapter import train

        recipe = settings.recipe
        prepared = settings.prepared or prepare(
            self, task, general, base.tokenizer, base.model.config, recipe
        )
        model, seconds = train(
            base,
            recipe,
            task=prepared.task,
            general=prepared.general,
            mixture=prepared.mixture,
            epochs=prepared.epochs,
            weights=prepared.weights,
            out=settings.out,
            description=self.label,
            progress=settings.progress,
        )
        counts = prepared.counts
        cost = Cost(counts.task_tokens, counts.general_tokens, seconds)
        budget = answer_budget(prepared.task.response_lengths, recipe)
        labels = closed_set(example.completion for example in task.train[: counts.task_examples])
        if settings.out is not None:
            save_adapter(
                settings.out,
                self,
                model,
                prepared,
                base,
                task,
                general,
                recipe,
                seconds,
                budget,
                labels,
            )
        return Predictor(
            model=model,
            tokenizer=prepared.tokenizer,
            anchor=prepared.anchor,
            max_new_tokens=budget,
            evaluation=recipe.evaluation,
            labels=labels,
            cost=cost,
            # The next method gets the base as it was.
            release=getattr(model, "unload", lambda: None),
        )
