"""Recipes that telltune ships, with their data."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from telltune.errors import RecipeError, StorageError
from telltune.recipe import read_yaml
from telltune.storage import write_bytes


def examples() -> dict[str, str]:
    """Return the names of the recipes, each with the first sentence of its comment.

    Recipes with data that telltune does not ship are left out.
    """
    return {
        path.stem: _first_sentence(path)
        for path in sorted(_folder().glob("*.yaml"))
        if not any(text.startswith("../") for text in _texts(read_yaml(path, "recipe")))
    }


def copy_example(name: str, out: Path) -> list[Path]:
    """Copy a recipe, and the recipes and data that it names, to a folder.

    Returns:
        The new files, the recipe first.

    Raises:
        RecipeError: There is no such recipe.
        StorageError: A file exists already, or the folder cannot be written.
    """
    known = examples()
    if name not in known:
        raise RecipeError(f"there is no example `{name}`; choose one of {', '.join(known)}.")
    folder = _folder()
    files = list(dict.fromkeys(_needed(folder / f"{name}.yaml")))
    targets = [out / file.relative_to(folder) for file in files]
    there = [str(target) for target in targets if target.exists()]
    if there:
        raise StorageError(f"{', '.join(there)} would be replaced; choose another --out.")
    for file, target in zip(files, targets, strict=True):
        write_bytes(target, file.read_bytes())
    return targets


def _folder() -> Path:
    """Return the folder with the recipes: in the package, or in the repository of a checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "recipes"
    return shipped if shipped.is_dir() else package.parents[1] / "recipes"


def _needed(recipe: Path) -> Iterator[Path]:
    """Yield a recipe, and the files that it names, at any depth."""
    yield recipe
    for text in _texts(read_yaml(recipe, "recipe")):
        named = recipe.parent / text
        if "\n" not in text and len(text) < 100 and named.is_file():
            if named.suffix == ".yaml":
                yield from _needed(named)
            else:
                yield named


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in parsed YAML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _first_sentence(path: Path) -> str:
    """Return the first sentence of a recipe's comment, without commands, which are indented."""
    text = path.read_text(encoding="utf-8")
    lines = takewhile(lambda line: line.startswith("# ") and line[2] != " ", text.splitlines())
    comment = " ".join(line.lstrip("# ").rstrip() for line in lines)
    said = comment.partition(". ")[0].rstrip(".:")
    return said if said.endswith("?") else f"{said}."
