"""Recipe of a run, from a recipe or from data with guessed settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telltune.data.given import (
    AnyData,
    Frame,
    files_of_data,
    given_recipe,
    is_by_split,
    named,
    with_paths,
)
from telltune.errors import RecipeError
from telltune.recipe import (
    AnyRecipe,
    Columns,
    Recipe,
    columns_from,
    load_recipe,
    recipe_from_dict,
)

if TYPE_CHECKING:
    from telltune.data.files import Split


def is_recipe(given: AnyRecipe | AnyData) -> bool:
    """Return whether an argument is a recipe and not data: a recipe, a YAML file or its keys."""
    if isinstance(given, str | Path):
        return Path(given).suffix.lower() in (".yaml", ".yml")
    if not isinstance(given, Mapping):
        return isinstance(given, Recipe)
    # Columns, or splits of unknown names, are refused as data with a list of what data may be.
    are_rows = all(isinstance(value, list | Frame) for value in given.values())
    is_data = is_by_split(given) or (are_rows and given.keys().isdisjoint(Recipe.model_fields))
    return not (given and is_data)


def recipe_of(
    given: AnyRecipe | AnyData,
    *,
    columns: Columns | Mapping[str, str] | None = None,
    overrides: list[str] | None = None,
) -> tuple[Recipe, str]:
    """Return the recipe of a run, and a description of what is guessed, or "".

    Raises:
        DataError: See `survey`.
        RecipeError: The recipe or an override is invalid, or columns are given with a recipe.
    """
    if not is_recipe(given):
        return _guessed(given, as_columns(columns), {}, overrides)  # type: ignore[arg-type]
    if columns is not None:
        raise RecipeError("`columns` is for data; a recipe names the columns of its own data.")
    if isinstance(given, str | Path):
        return load_recipe(given, overrides), ""
    return given_recipe(given), ""  # type: ignore[arg-type]


def recipe_for(
    data: AnyData, *, columns: Columns | Mapping[str, str] | None = None, **keys: Any
) -> Recipe:
    """Return a recipe for data, with guessed settings where none is given.

    Args:
        data: Path of a file or folder, list of dicts or of conversations, frame, data set, or a
            dict of these by split. All of it is training data unless splits are told.
        columns: Columns of the data, if they cannot be guessed, such as
            `{"prompt": "text", "completion": "team"}`.
        keys: Recipe keys, such as `model="embedded"` or `mixture={"passes": 5}`.

    Raises:
        DataError: The data cannot be read, or their columns cannot be guessed.
        RecipeError: A key is invalid.

    Examples:
        >>> rows = [{"text": "The parcel is late.", "team": "shipping"}] * 4
        >>> recipe = telltune.recipe_for(rows, method="sft", general=None)
        >>> recipe.task.train[0].columns.completion
        'team'
    """
    return _guessed(data, as_columns(columns), keys, None)[0]


def as_columns(columns: Columns | Mapping[str, str] | None) -> Columns | None:
    """Return columns that may be given as a dictionary.

    Raises:
        RecipeError: A key is unknown or missing.
    """
    return columns_from(columns, "`columns`") if isinstance(columns, Mapping) else columns


def _guessed(
    data: AnyData, columns: Columns | None, keys: Mapping[str, Any], overrides: list[str] | None
) -> tuple[Recipe, str]:
    files = files_of_data(data)
    shown = shown_files(files)
    if overrides:
        # Mistakes in them are reported before the slow import of PyTorch.
        likely = {"task": {"train": shown}, "general": "embedded", "anchor": "guessed"}
        recipe_from_dict(likely, name=shown, overrides=overrides)
    from telltune.proposal.survey import survey

    found = survey(files, columns)
    task: dict[str, Any] = {
        part: [spec.model_dump(exclude_none=True, exclude_defaults=True) for spec in specs]
        for part, specs in found.specs.items()
    }
    if found.telling_labels:
        task["labels"] = found.telling_labels
    guesses = {"task": task, "general": "embedded", "anchor": found.anchor}
    values = with_paths(guesses | dict(keys))
    if isinstance(keys.get("task"), Mapping):
        values["task"] = task | values["task"]
    recipe = recipe_from_dict(values, name=shown, overrides=overrides)
    command = f"tell init {shlex.quote(shown)}"
    instead = f" `{command}` writes them as a recipe." if isinstance(data, Path) else ""
    told = (
        f"{shown} is no recipe, so the settings are guessed: {found.told}; anchor "
        f"{found.anchor!r}; model {recipe.model.name}.{instead}"
    )
    return recipe, told


def shown_files(files: list[str] | dict[Split, list[str]]) -> str:
    """Return the names of files for messages."""
    every = [path for of in files.values() for path in of] if isinstance(files, dict) else files
    return ", ".join(named(Path(path)) for path in every)
