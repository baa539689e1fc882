"""What a method does before it trains: data that are made, chosen, ordered, weighed; a start."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from telltune.errors import RecipeError
from telltune.methods.general_choice import choose_general
from telltune.methods.meta_start import meta_start
from telltune.methods.preparation import prepare
from telltune.methods.selection import Selection, select
from telltune.methods.synthetic_data import Made, with_synthetic
from telltune.methods.trust import trust
from telltune.training.confidence import Confidence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

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
        start: Where the adapter begins.
        seconds: That it took.
    """

    task: TaskData
    general: GeneralData | None
    recipe: Recipe
    prepared: Prepared | None = None
    made: Made | None = None
    selection: Selection | None = None
    confidence: Confidence | None = None
    start: Mapping[str, Tensor] | None = None
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
    found = Groundwork(task, general, recipe, settings.prepared, start=settings.start)
    if recipe.meta is not None:
        _learn_start(found, general, base, settings)
    if recipe.synthesis is not None:
        counts = (found.prepared or prepare(method, task, general, known, recipe)).counts
        _make(found, base, counts.general_examples, settings)
    _score(found, base, settings, anchored=method.anchored)
    if method.mixes and not method.equal_steps:
        _choose_general(found, base, settings)
    return found


def _learn_start(
    found: Groundwork, general: GeneralData | None, base: BaseModel, settings: Settings
) -> None:
    spec = found.recipe.meta
    assert spec is not None  # by the caller
    if found.recipe.training.full_parameters:
        raise RecipeError(
            "`meta` learns the start of an adapter, and `training.full_parameters` trains none; "
            "leave out one of the two."
        )
    if general is None:
        raise RecipeError("`meta` learns a start on general data; write `general: ...`.")
    began = time.perf_counter()
    found.start = meta_start(base, general, found.recipe, spec, progress=settings.progress)
    found.seconds += time.perf_counter() - began


def _make(found: Groundwork, base: BaseModel, general_examples: int, settings: Settings) -> None:
    spec = found.recipe.synthesis
    assert spec is not None  # by the caller
    made = with_synthetic(
        found.task,
        found.general,
        base,
        found.recipe,
        spec,
        general_examples,
        progress=settings.progress,
    )
    found.task, found.general, found.recipe = made.task, made.general, made.recipe
    found.made, found.prepared = made, None
    found.seconds += made.seconds


def _score(found: Groundwork, base: BaseModel, settings: Settings, *, anchored: bool) -> None:
    """Choose among the task's examples, and find out how far those chosen are trusted."""
    task, recipe = found.task, found.recipe
    how = {"anchored": anchored, "progress": settings.progress}
    if recipe.confidence is not None:
        values, seconds = trust(task, base, recipe, recipe.confidence, **how)
        found.confidence = Confidence(values, recipe.confidence.scale)
        found.seconds += seconds
    if recipe.selection is not None:
        chosen = select(task, base, recipe, recipe.selection, **how)
        found.task, found.recipe = chosen.apply(task, recipe)
        found.selection, found.prepared = chosen, None
        found.seconds += chosen.seconds
        if found.confidence is not None:
            kept = found.confidence.values[list(chosen.chosen)]
            found.confidence = Confidence(kept, found.confidence.scale)


def _choose_general(found: Groundwork, base: BaseModel, settings: Settings) -> None:
    spec = found.recipe.general_choice
    if spec is None or found.general is None:
        return
    began = time.perf_counter()
    chosen = choose_general(
        found.task, found.general, base, found.recipe, spec, progress=settings.progress
    )
    mixture = found.recipe.mixture.model_copy(update={"general_examples": len(chosen.chosen)})
    found.recipe = found.recipe.model_copy(update={"mixture": mixture})
    found.general, found.prepared = chosen, None
    found.seconds += time.perf_counter() - began
