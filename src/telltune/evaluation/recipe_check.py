"""Check that everything a recipe names exists, before any model is loaded.

`telltune.recipe` rejects recipes that no machine could run. This module checks the rest: names of
methods, metrics and trackers, the files of every split (test data included), the general data and
the model. All mistakes are reported at once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from telltune.data.embedded import embedded_task
from telltune.data.files import Split, files_of
from telltune.data.loaders import scan
from telltune.data.task import named_data
from telltune.errors import RecipeError, TellError
from telltune.evaluation.score import check_metrics
from telltune.fitting.build_plan import check_needs
from telltune.inference.api_client import api_key
from telltune.methods.registry import get_method
from telltune.models import check_named
from telltune.training.libraries import check_libraries
from telltune.training.trackers import check_trackers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from telltune.recipe import DataSpec, Recipe


def check_recipe(recipe: Recipe) -> None:
    """Raise an error unless everything that a recipe names exists.

    The hub is not contacted, and data files are opened but not read to the end.

    Raises:
        TellError: The only mistake, or a RecipeError that lists all mistakes.
    """
    found: dict[str, TellError] = {}
    for check in _checks(recipe):
        try:
            check()
        except TellError as error:
            found.setdefault(str(error), error)
    mistakes = list(found.values())
    if len(mistakes) == 1:
        raise mistakes[0]
    if mistakes:
        listed = "; ".join(f"({i}) {str(m).rstrip('.')}" for i, m in enumerate(mistakes, 1))
        raise RecipeError(f"{len(mistakes)} mistakes in the recipe: {listed}.")


def _checks(recipe: Recipe) -> Iterator[Callable[[], object]]:
    """Yield checks, each of which raises an error if something is wrong."""
    task = recipe.task
    yield partial(_check_method, recipe)
    yield from (partial(check_metrics, [name]) for name in recipe.evaluation.metrics or ())
    if task.embedded is not None:
        yield partial(embedded_task, task.embedded)
    for spec, split in named_data(recipe):
        yield partial(_check_data, spec, split)
    yield partial(check_named, recipe.model)
    yield partial(_check_trainable, recipe)
    yield partial(check_trackers, recipe.training.report_to)
    yield partial(check_libraries, recipe.training)
    if recipe.teacher is not None:
        yield partial(api_key, recipe.teacher)


def _check_method(recipe: Recipe) -> None:
    check_needs(
        get_method(recipe.method),
        anchored=recipe.anchor is not None or recipe.task.embedded is not None,
        general=recipe.general is not None,
    )


def _check_trainable(recipe: Recipe) -> None:
    if recipe.training.full_parameters and recipe.model.quantization is not None:
        raise RecipeError(
            f"weights quantized by `model.quantization: {recipe.model.quantization}` cannot be "
            "trained; remove that key or `training.full_parameters`."
        )
    unrounded = recipe.lora.changes_base or recipe.lora.init == "orthogonal"
    if unrounded and recipe.model.quantization is not None:
        raise RecipeError(
            f"`lora.init: {recipe.lora.init}` does not support a base that `model.quantization: "
            f"{recipe.model.quantization}` has rounded; remove one of the two."
        )


def _check_data(spec: DataSpec, split: Split) -> None:
    """Check that the file can be opened; errors in its rows are reported on reading."""
    if files_of(spec, split) is not None:
        next(scan(spec, split=split), None)
