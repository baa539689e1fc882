"""Whose an output folder is: a new one, the same run cut short, or somebody else's."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from telltune.errors import StorageError
from telltune.methods.adapter_folder import TELL_JSON
from telltune.storage import write_text, writing

if TYPE_CHECKING:
    from pathlib import Path

    from telltune.recipe import Recipe

__all__ = ["RECIPE_FILE", "claim", "record_recipe"]

RECIPE_FILE = "recipe.yaml"
# A user's own folder may well hold a recipe.yaml too; this line is what makes one of ours.
_MARK = "# Written by telltune, which may replace this folder.\n"


def claim(out: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Make sure that an output folder is new, or holds the unfinished run of this very recipe.

    Raises:
        StorageError: It holds something else.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise StorageError(f"{out} is a file; choose a folder.")
    saved = out / RECIPE_FILE
    with writing(out):
        found = saved.read_text(encoding="utf-8", errors="replace") if saved.is_file() else ""
    if any(out.iterdir()) and not found.startswith(_MARK):
        raise StorageError(f"{out} holds what telltune did not write; choose another --out.")
    if overwrite:
        return  # `record_recipe` empties it, once the new run is known to be able to start
    if (out / TELL_JSON).exists():
        raise StorageError(
            f"{out} holds a finished run; choose another --out, or give --overwrite."
        )
    if found and found != _MARK + recipe.to_yaml():
        raise StorageError(
            f"{out} holds an unfinished run of another recipe; choose another --out, or give "
            "--overwrite."
        )


def record_recipe(out: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Write down whose run a folder is, before the first checkpoint; empty it to overwrite it."""
    if overwrite and out.exists():
        with writing(out):
            shutil.rmtree(out)
    write_text(out / RECIPE_FILE, _MARK + recipe.to_yaml())
