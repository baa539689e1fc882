"""What a recipe names and this machine lacks: all of it at once, before any model is loaded.

`telltune.recipe` refuses what no machine could run. This looks at the rest: methods and metrics by
their names, the files of every split (the test data of a fit, too, that nobody reads for hours),
the general data, the model. It stands here because metrics do.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from telltune.data.embedded import embedded_task
from telltune.data.files import files_of
from telltune.data.reading import scan
from telltune.data.task import named_data
from telltune.errors import RecipeError, TellError
from telltune.evaluation.score import check_metrics
from telltune.methods.preparation import check_needs
from telltune.methods.registry import get_method
from telltune.models import check_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from telltune.data.files import Split
    from telltune.recipe import DataSpec, Recipe

__all__ = ["check_recipe"]


def check_recipe(recipe: Recipe, methods: Sequence[str] = ()) -> None:
    """Raise unless all that a recipe names is there. The hub is not asked, and no data are read.

    Args:
        recipe: Checked for itself.
        methods: By name; the recipe's own if none is given.

    Raises:
        TellError: The one mistake that there is, or a RecipeError that lists them all.
    """
    found: dict[str, TellError] = {}
    for check in _checks(recipe, methods or [recipe.method]):
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


def _checks(recipe: Recipe, methods: Sequence[str]) -> Iterator[Callable[[], object]]:
    """Each raises where something is wrong."""
    task = recipe.task
    yield from (partial(_check_method, recipe, name) for name in methods)
    yield from (partial(check_metrics, [name]) for name in recipe.evaluation.metrics or ())
    if task.embedded is not None:
        yield partial(embedded_task, task.embedded)
    for spec, split in named_data(recipe):
        yield partial(_check_data, spec, split)
    yield partial(check_named, recipe.model)
    yield partial(_check_trainable, recipe)


def _check_method(recipe: Recipe, name: str) -> None:
    check_needs(
        get_method(name),
        anchored=recipe.anchor is not None or recipe.task.embedded is not None,
        general=recipe.general is not None,
    )


def _check_trainable(recipe: Recipe) -> None:
    if recipe.training.full_parameters and recipe.model.quantization is not None:
        raise RecipeError(
            f"weights held as `model.quantization: {recipe.model.quantization}` cannot be trained "
            "themselves; leave out that key or `training.full_parameters`."
        )


def _check_data(spec: DataSpec, split: Split) -> None:
    """Whether there is a file that can be opened; what is wrong with rows is told on reading."""
    if files_of(spec, split) is not None:
        next(scan(spec, split=split), None)
