"""Reading and validation of recipes from YAML or dictionaries."""

from __future__ import annotations

import copy
import stat
from collections.abc import Mapping
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from telltune.errors import RecipeError
from telltune.recipe.data_sources import Columns, DataSpec
from telltune.recipe.schema import Recipe, written_out
from telltune.recipe.validation_messages import explain, explained

MAX_BYTES = 2**20
"""Maximum size of a recipe file. Parsing a data file given by mistake would take hours."""

_MERGED = 10_000


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe from YAML.

    Relative data paths and a relative model folder are resolved against the recipe's own folder if
    they exist there, so that a recipe works from any working directory.

    Args:
        path: Path of the YAML file.
        overrides: Texts of the form `key=value`, e.g. `mixture.passes=5`; the value is read as
            YAML.

    Raises:
        RecipeError: The recipe is invalid; the message names every mistake with its key.

    Examples:
        >>> telltune.load_recipe("recipes/demo.yaml", ["mixture.passes=5"]).mixture.passes
        5
    """
    path = Path(path)
    values = read_yaml(path, "recipe")
    return recipe_from_dict(values, name=str(path), folder=path.parent, overrides=overrides)


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Return the top-level mapping of a YAML file.

    Raises:
        RecipeError: The file does not exist, cannot be read, or is not a mapping.
    """
    try:
        values = _parse(_text_of(path))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such {what}; see `recipes/` for examples.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}.") from None
    except ValueError as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        keys = "`task:` and `general:`" if what == "recipe" else "`recipe:` and `methods:`"
        raise RecipeError(f"{path}: the {what} must be a mapping of keys such as {keys}.")
    return values


def _text_of(path: Path) -> str:
    """Return a file's text; raise OSError also for special files and files that are too large."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is not a regular file")
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise OSError(f"it is larger than {MAX_BYTES // 2**20} MiB")
    return raw.decode("utf-8-sig")


class _Loader(yaml.SafeLoader):
    """Safe YAML loader that refuses duplicate keys and excessive merging (`<<:`).

    By default YAML keeps the last of duplicate keys and silently drops the others. Nested merges
    can produce more keys than fit in memory.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._checked: set[int] = set()
        self._merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Insert merged keys; PyYAML calls this one or more times for each mapping."""
        if id(node) not in self._checked:
            self._checked.add(id(node))
            self._refuse_twice(node)
        super().flatten_mapping(node)
        self._merged += len(node.value)
        if self._merged > _MERGED:
            raise yaml.MarkedYAMLError(problem="too many merged keys", problem_mark=node.start_mark)

    def _refuse_twice(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key `{key.value}` is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)


def _parse(text: str) -> Any:
    """Parse a YAML text.

    Raises:
        ValueError: The text is not valid YAML, or has an impossible value such as 2024-99-99.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        for mark in (getattr(error, "context_mark", None), getattr(error, "problem_mark", None)):
            if mark is not None:
                mark.buffer = None  # Otherwise the message quotes the line, which may hold a key.
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def recipe_from_dict(
    values: dict[str, Any],
    *,
    name: str = "recipe",
    folder: Path | None = None,
    overrides: list[str] | None = None,
) -> Recipe:
    """Validate a recipe given as a dictionary; see `load_recipe`.

    Raises:
        RecipeError: The recipe is invalid; the message names every mistake with its key.
    """
    values = copy.deepcopy(values)
    clauses = [clause for each in overrides or [] if (clause := _override(values, each))]
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        given = tuple(f"{each.partition('=')[0].strip()}." for each in overrides or [])
        of_file = []
        for key, clause in explained(error, Recipe, "recipe"):
            if f"{key}.".startswith(given):
                clauses.append(f"--set {clause}")
            else:
                of_file.append(clause)
        if of_file:
            clauses.append(f"{name}: {'; '.join(of_file)}")
    if clauses:
        raise RecipeError(f"{'; '.join(clauses)}.")
    return recipe if folder is None else _resolve(recipe, folder)


AnyRecipe = Recipe | str | Path | dict[str, Any]
"""Recipe argument of the API: a `Recipe`, the path of a YAML file, or a dictionary."""


def as_recipe(recipe: AnyRecipe) -> Recipe:
    """Return a recipe from a file, a dictionary or a recipe.

    Raises:
        RecipeError: The recipe is invalid, as in `load_recipe`.
    """
    if isinstance(recipe, Recipe):
        return recipe
    return recipe_from_dict(recipe) if isinstance(recipe, dict) else load_recipe(recipe)


def columns_from_text(text: str, **defaults: str) -> Columns:
    """Parse `Columns` from a text such as `prompt=text,completion=team`.

    Raises:
        RecipeError: The text has another form, or a key is unknown or missing.
    """
    given = dict(defaults)
    for part in text.split(","):
        key, separator, name = part.partition("=")
        if not separator or not name.strip():
            raise RecipeError(f"--columns {text}: write it as prompt=text,completion=team.")
        given[key.strip()] = name.strip()
    return columns_from(given, f"--columns {text}")


def columns_from(given: Mapping[str, str], what: str) -> Columns:
    """Return columns from a dictionary, which errors call `what`.

    Raises:
        RecipeError: A key is unknown or missing.
    """
    try:
        return Columns.model_validate(given)
    except ValidationError as error:
        mistakes = "; ".join(explain(error, Columns, "set of columns"))
        raise RecipeError(f"{what}: {mistakes}.") from None


def _override(values: dict[str, Any], override: str) -> str | None:
    """Set one `a.b=value` in a nested mapping in place; return a description of any mistake."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        return f"--set {override}: write it as key=value, such as mixture.passes=5"
    try:
        put(values, key.strip(), _value_of(text))
    except RecipeError as error:
        return f"--set {key}: {error}"
    except ValueError:
        return f"--set {key}: the value is not valid YAML; quote it"
    return None


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a key such as `mixture.passes` in the keys of a recipe, in place.

    Raises:
        RecipeError: A part of the key has a value that is no mapping.
    """
    *parents, last = key.split(".")
    here = values
    for parent in parents:
        inner = here.get(parent)
        if isinstance(inner, str):
            inner = written_out(parent, inner)
        here[parent] = inner = {} if inner is None else inner
        if not isinstance(inner, dict):
            raise RecipeError(f"`{parent}` has no keys")
        here = inner
    here[last] = value


def _value_of(text: str) -> Any:
    """Return the value of a `--set`: YAML if it is in quotes or brackets, else a plain scalar.

    What YAML would read into other texts is not meant: a comment in `anchor=#1 rule: be brief`, a
    mapping in `anchor.response=Team:`.

    Raises:
        ValueError: The text is not valid YAML.
    """
    plain = text.strip()
    if plain.startswith(('"', "'", "{", "[")):
        return _parse(text)
    loader = _Loader("")
    tag: str = loader.resolve(yaml.ScalarNode, plain, (True, False))  # type: ignore[no-untyped-call]
    if tag.rpartition(":")[2] not in ("null", "bool", "int", "float"):
        return plain
    return loader.construct_object(yaml.ScalarNode(tag, plain))


def _resolve(recipe: Recipe, folder: Path) -> Recipe:
    """Make relative paths absolute if they exist in the recipe's folder."""

    def beside(name: str) -> str:
        there = folder / name
        try:
            if Path(name).is_absolute():
                return name
            found = there.exists()
            if not found and has_magic(name):
                # As in `telltune.data.files`.
                found = bool(glob(str(there), recursive=True))  # noqa: PTH207
            return str(there.resolve()) if found else name
        except OSError:  # E.g. a name that is too long; reading it reports the error.
            return name

    def moved(specs: list[DataSpec] | None) -> list[DataSpec] | None:
        return specs and [s.model_copy(update={"path": beside(s.path)}) for s in specs]

    task, general = recipe.task, recipe.general
    task = task.model_copy(
        update={k: moved(getattr(task, k)) for k in ("train", "dev", "test", "unlabeled")}
    )
    if general is not None:
        general = general.model_copy(update={"sources": moved(general.sources)})
    template = recipe.model.chat_template
    model = recipe.model.model_copy(
        update={
            "name": beside(recipe.model.name),
            "chat_template": template and beside(template),
        }
    )
    changed: dict[str, Any] = {"task": task, "general": general, "model": model}
    if recipe.training.deepspeed is not None:
        file = beside(recipe.training.deepspeed)
        changed["training"] = recipe.training.model_copy(update={"deepspeed": file})
    selection = recipe.selection
    if selection is not None and selection.aliases is not None:
        aliases = beside(selection.aliases)
        changed["selection"] = selection.model_copy(update={"aliases": aliases})
    return recipe.model_copy(update=changed)
