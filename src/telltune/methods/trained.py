"""The shape that SFT, its controls and TELL share: prepare, train, answer."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from telltune.data.anchor import anchored_tokenizer
from telltune.errors import RecipeError
from telltune.inference.labels import closed_set
from telltune.methods.adapter_folder import save_adapter
from telltune.methods.general_choice import choose_general
from telltune.methods.known_model import KnownModel
from telltune.methods.meta_start import meta_start
from telltune.methods.preparation import answer_budget, prepare
from telltune.methods.protocol import Cost, Predictor
from telltune.methods.selection import Selection, select
from telltune.methods.synthetic_data import with_synthetic
from telltune.methods.trust import trust
from telltune.recipe import Recipe
from telltune.training.confidence import Confidence

if TYPE_CHECKING:
    from telltune.data.task import GeneralData, TaskData
    from telltune.methods.protocol import Settings
    from telltune.models import BaseModel
    from telltune.recipe import Order

__all__ = ["Trained"]


@dataclass(frozen=True)
class Trained:
    """A method that trains an adapter; methods differ in what they train it on.

    Attributes:
        name: In recipes and tables.
        label: For people.
        anchored: Whether it uses the anchor.
        mixes: Whether it uses general data, be it only to know how much TELL would take.
        learns: Whether the task's examples are trained on; else they only say how much general
            data is.
        order: Of the mixture, in place of the recipe's.
        equal_steps: Trains on the task alone, in as many passes as come nearest to the number of
            optimizer steps that TELL would take.
        sets: Recipe keys, such as `selection.order`, and their values in place of the recipe's; a
            part alone, such as `meta`, stands for its defaults where the recipe has none.
    """

    name: str
    label: str
    anchored: bool
    mixes: bool
    learns: bool = True
    order: Order | None = None
    equal_steps: bool = False
    sets: tuple[tuple[str, Any], ...] = ()
    trains: bool = True
    sized: bool = True

    def configured(self, recipe: Recipe) -> Recipe:
        """The recipe with what the method itself sets."""
        if not self.sets:
            return recipe
        values = recipe.model_dump()
        for key, value in self.sets:
            part, _, name = key.partition(".")
            values[part] = (values[part] or {}) | ({name: value} if name else {})
        return Recipe.model_validate(values)

    def run(
        self, task: TaskData, general: GeneralData | None, base: BaseModel, settings: Settings
    ) -> Predictor:
        """Train on what the method mixes, save where the settings say, and answer with it."""
        from telltune.training.adapter import train

        recipe, prepared = self.configured(settings.recipe), settings.prepared
        known = KnownModel.of(base.model.config, base.tokenizer)
        made = None
        if recipe.synthesis is not None:
            mixed = (prepared or prepare(self, task, general, known, recipe)).counts
            made = with_synthetic(
                task, general, base, recipe, recipe.synthesis, mixed.general_examples
            )
            task, general, recipe, prepared = made.task, made.general, made.recipe, None
        selection, confidence, scoring = self._scored(task, base, recipe)
        if selection is not None:
            # What was prepared knows of no choice.
            prepared = None
            task, recipe = selection.apply(task, recipe)
        if self.mixes and not self.equal_steps and general is not None and recipe.general_choice:
            prepared = None
            began = time.perf_counter()
            general = choose_general(task, general, base, recipe, recipe.general_choice)
            spec = recipe.mixture.model_copy(update={"general_examples": len(general.chosen)})
            recipe = recipe.model_copy(update={"mixture": spec})
            scoring += time.perf_counter() - began
        start = settings.start
        if recipe.meta is not None:
            if general is None:
                raise RecipeError("`meta` learns a start on general data; write `general: ...`.")
            began = time.perf_counter()
            start = meta_start(base, general, recipe, recipe.meta, progress=settings.progress)
            scoring += time.perf_counter() - began
        prepared = prepared or prepare(self, task, general, known, recipe)
        tokenizer = anchored_tokenizer(base.tokenizer, prepared.anchor)
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
            texts=(task.train, general),
            confidence=confidence,
            start=start,
        )
        counts = prepared.counts
        seconds += scoring
        cost = Cost.of(counts.to_dict(), seconds)
        if made is not None:
            # What somebody had to label.
            seconds += made.seconds
            cost = replace(
                cost, task_examples=len(made.real), task_tokens=made.tokens, seconds=seconds
            )
        budget = answer_budget(prepared.task.response_lengths, recipe)
        answered = made.real if made is not None else task.train[: counts.task_examples]
        labels = closed_set(example.completion for example in answered)
        if settings.out is not None and settings.save:
            save_adapter(
                settings.out,
                self,
                model,
                tokenizer,
                prepared,
                base,
                task,
                general,
                settings.recipe,
                seconds,
                budget,
                labels,
                selection,
            )
        return Predictor(
            model=model,
            tokenizer=tokenizer,
            anchor=prepared.anchor,
            max_new_tokens=budget,
            evaluation=recipe.evaluation,
            labels=labels,
            shots=task.shots,
            answer_after=task.answer_after,
            cost=cost,
            # The next method gets the base as it was.
            release=getattr(model, "unload", lambda: None),
        )

    def _scored(
        self, task: TaskData, base: BaseModel, recipe: Recipe
    ) -> tuple[Selection | None, Confidence | None, float]:
        """Which examples are used and how far they are trusted, and the seconds to find out."""
        chosen, spec, seconds = recipe.selection, recipe.confidence, 0.0
        selection = confidence = None
        if chosen is not None:
            selection = select(task, base, recipe, chosen, anchored=self.anchored)
            seconds += selection.seconds
        if spec is not None:
            values, spent = trust(task, base, recipe, spec, anchored=self.anchored)
            used = values if selection is None else values[list(selection.chosen)]
            confidence = Confidence(used, spec.scale)
            seconds += spent
        return selection, confidence, seconds
