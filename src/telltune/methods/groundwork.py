"""What a method does before it trains: data that are made, chosen, ordered, weighed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from telltune.methods.general_choice import choose_general
from telltune.methods.preparation import prepare
from telltune.methods.selection import Selection, select
from telltune.methods.synthetic_data import Made, with_synthetic
from telltune.methods.trust import trust
from telltune.training.confidence import Confidence

if TYPE_CHECKING:
    from telltune.data.task import GeneralData, TaskData
    from telltune.methods.known_model import KnownModel
    from telltune.methods.preparation import Prepared
    from telltune.methods.protocol import Settings
    from telltune.methods.trained import Trained
    from telltune.models import BaseModel
    from telltune.recipe import Recipe

__all__ = ["Groundwork", "lay"]


@dataclass
class Groundwork:
    """What a method trains on, once all of that is done.

    Attributes:
        task: Its training examples.
        general: What is mixed in.
        recipe: The run's, fitted to them.
        prepared: What had been prepared, where nothing has changed since; else None.
        made: What the model made of the task's examples.
        selection: Which of them are used.
        confidence: How far they are trusted.
        seconds: That it took.
    """

    task: TaskData
    general: GeneralData | None
    recipe: Recipe
    prepared: Prepared | None = None
    made: Made | None = None
    selection: Selection | None = None
    confidence: Confidence | None = None
    seconds: float = 0.0


def lay(
    method: Trained,
    task: TaskData,
    general: GeneralData | None,
    base: BaseModel,
    settings: Settings,
    known: KnownModel,
) -> Groundwork:
    """Do what the recipe and the method want done before training.

    Args:
        method: Which.
        task: The task.
        general: The general data, or None.
        base: Without an adapter; it is left as it was.
        settings: The run's.
        known: The base, as far as it is known without its weights.

    Raises:
        TellError: What is wanted cannot be done with this data or model.
    """
    recipe = method.configured(settings.recipe)
    found = Groundwork(task, general, recipe, settings.prepared)
    if recipe.synthesis is not None:
        counts = (found.prepared or prepare(method, task, general, known, recipe)).counts
        _make(found, base, counts.general_examples)
    _score(found, base, anchored=method.anchored)
    if method.mixes and not method.equal_steps:
        _choose_general(found, base)
    return found


def _make(found: Groundwork, base: BaseModel, general_examples: int) -> None:
    spec = found.recipe.synthesis
    assert spec is not None  # by the caller
    made = with_synthetic(found.task, found.general, base, found.recipe, spec, general_examples)
    found.task, found.general, found.recipe = made.task, made.general, made.recipe
    found.made, found.prepared = made, None
    found.seconds += made.seconds


def _score(found: Groundwork, base: BaseModel, *, anchored: bool) -> None:
    """Choose among the task's examples, and find out how far those chosen are trusted."""
    task, recipe = found.task, found.recipe
    if recipe.confidence is not None:
        values, seconds = trust(task, base, recipe, recipe.confidence, anchored=anchored)
        found.confidence = Confidence(values, recipe.confidence.scale)
        found.seconds += seconds
    if recipe.selection is not None:
        chosen = select(task, base, recipe, recipe.selection, anchored=anchored)
        found.task, found.recipe = chosen.apply(task, recipe)
        found.selection, found.prepared = chosen, None
        found.seconds += chosen.seconds
        if found.confidence is not None:
            kept = found.confidence.values[list(chosen.chosen)]
            found.confidence = Confidence(kept, found.confidence.scale)


def _choose_general(found: Groundwork, base: BaseModel) -> None:
    spec = found.recipe.general_choice
    if spec is None or found.general is None:
        return
    began = time.perf_counter()
    chosen = choose_general(found.task, found.general, base, found.recipe, spec)
    mixture = found.recipe.mixture.model_copy(update={"general_examples": len(chosen.chosen)})
    found.recipe = found.recipe.model_copy(update={"mixture": mixture})
    found.general, found.prepared = chosen, None
    found.seconds += time.perf_counter() - began
