"""Specification of a study (methods x sizes x seeds on tasks) and its cells."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from telltune.errors import RecipeError
from telltune.recipe import Recipe, explain, load_recipe, put, read_yaml, recipe_from_dict

_CONFIDENCE = 0.95

STUDY_FILE = "study.yaml"
"""File name, in a study's folder, of the study as it was last run."""


Spec = TypeVar("Spec", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class TaskEntry(_Part):
    """A task, given by the recipe keys that differ from the study's recipe."""

    name: str
    """Name in tables."""
    keys: dict[str, Any]
    """Recipe keys: `task`, and often `anchor` and `evaluation`."""


def _as_task(value: Any) -> Any:
    """Convert the name of an embedded task, or recipe keys with a `name`, to a task entry."""
    if isinstance(value, str):
        return {"name": value, "keys": {"task": {"embedded": value}, "anchor": None}}
    if isinstance(value, dict) and "keys" not in value:
        keys = {"anchor": None} | {k: v for k, v in value.items() if k != "name"}
        return {"name": value.get("name"), "keys": keys}
    return value


class MethodEntry(_Part):
    """A method, optionally with its own settings."""

    method: str
    """Name of the method in recipes."""
    name: str
    """Name in tables. Defaults to `method`."""
    set: dict[str, Any] = {}
    """Values of recipe keys such as `mixture.passes`, also several as `mixture: {passes: 3}`."""


def _as_method(value: Any) -> Any:
    if isinstance(value, str):
        return {"method": value, "name": value}
    if isinstance(value, dict) and "method" in value:
        return {"name": value["method"]} | value
    return value


Tasks = list[Annotated[TaskEntry, BeforeValidator(_as_task)]]
Methods = list[Annotated[MethodEntry, BeforeValidator(_as_method)]]


class Block(_Part):
    """A block of additional cells; missing keys default to those of the study."""

    tasks: list[str] | None = Field(default=None, min_length=1)
    """Names of the study's tasks."""
    methods: Methods | None = Field(default=None, min_length=1)
    sizes: list[PositiveInt] | None = Field(default=None, min_length=1)
    leverage_ratios: list[NonNegativeFloat] | None = Field(default=None, min_length=1)
    seeds: list[NonNegativeInt] | None = Field(default=None, min_length=1)


class ForgettingSpec(_Part):
    """Settings of the forgetting measurements; see docs/guides/studies.md."""

    examples: NonNegativeInt = 100
    """Number of held-out general examples whose loss is measured; 0 disables this."""
    prompts: NonNegativeInt = 40
    """Number of these examples, and of everyday prompts (at most 24), that are answered without the
    anchor, to measure leakage of the task and drift from the base."""


class StudySpec(_Part):
    """Specification of a study.

    Example:
        ```yaml
        recipe: demo.yaml
        tasks: [medical_specialty, mention_json]
        methods: [base, sft_anchor, tell]
        sizes: [3000, 10000]          # task tokens
        seeds: [0, 1, 2]
        more: [{methods: [sft], sizes: [100000]}]
        ```
    """

    recipe: dict[str, Any]
    """Recipe keys shared by all cells, or the name of a recipe file in the study's folder."""
    tasks: Tasks = []
    """Names of embedded tasks, or recipe keys with a `name`. Defaults to the recipe's task."""
    methods: Methods = Field(min_length=1)
    """Names of methods, or mappings with `method`, `name` and `set`."""
    sizes: list[PositiveInt] = Field(min_length=1)
    """Numbers of task tokens; a smaller size is a subset of a larger one."""
    leverage_ratios: list[NonNegativeFloat] | None = Field(default=None, min_length=1)
    """Ratios of general to task tokens, for methods that mix. Defaults to the recipe's ratio."""
    seeds: list[NonNegativeInt] | None = Field(default=None, min_length=1)
    """Random seeds. Each draws its own task data, order and adapter initialization. Defaults to the
    recipe's seed."""
    more: list[Block] = []
    """Additional cells outside of the grid."""
    forgetting: ForgettingSpec = ForgettingSpec()
    """Settings of the forgetting measurements."""

    def to_yaml(self) -> str:
        """Return the study as YAML, with all defaults written out."""
        text: str = yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )
        return text


@dataclass(frozen=True)
class Cell:
    """One method x size x seed on a task.

    Attributes:
        method: Name of the method in recipes.
        name: Name of the method in tables.
        size: Maximum number of task tokens; None if the method uses no task data.
        leverage_ratio: General tokens / task tokens; None if the method does not mix.
        seed: Seed of the data draw, the order and the adapter.
    """

    task: str
    method: str
    name: str
    size: int | None
    leverage_ratio: float | None
    seed: int
    recipe: Recipe = field(repr=False, compare=False)

    @property
    def title(self) -> str:
        """Title for display."""
        parts = [self.task, self.name]
        if self.size is not None:
            parts.append(f"{self.size:,} tokens")
        if self.leverage_ratio is not None:
            parts.append(f"ratio {self.leverage_ratio:g}")
        return ", ".join([*parts, f"seed {self.seed}"])


def load_study(path: str | Path) -> tuple[StudySpec, list[Cell]]:
    """Read a study and return it with its cells; paths of data that exist are made absolute.

    Raises:
        RecipeError: A key, method, task or recipe is invalid.
    """
    path = Path(path)
    spec = read_spec(path, StudySpec, "study")
    cells = cells_of(spec, name=str(path), folder=path.parent)
    if any(cell.recipe.evaluation.confidence != _CONFIDENCE for cell in cells):
        raise RecipeError(
            f"{path}: all intervals of a study are of {_CONFIDENCE:.0%}; remove "
            "`evaluation.confidence`."
        )
    known = {text for cell in cells for text in _texts(cell.recipe.model_dump(mode="json"))}
    values = _placed(spec.model_dump(mode="json"), path.parent, known)
    return StudySpec.model_validate(values), cells


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _placed(value: Any, folder: Path, known: set[str]) -> Any:
    """Replace texts that name something in the folder, which the cells read, by its full path."""
    if isinstance(value, dict):
        return {key: _placed(each, folder, known) for key, each in value.items()}
    if isinstance(value, list):
        return [_placed(each, folder, known) for each in value]
    # An empty text would name the folder itself.
    there = str((folder / value).resolve()) if isinstance(value, str) and value else None
    return there if there in known else value


def read_spec(path: Path, kind: type[Spec], what: str) -> Spec:
    """Read a file whose `recipe` is a mapping of keys or the name of a file in the same folder.

    Raises:
        RecipeError: A key of the file is invalid.
    """
    values = read_yaml(path, what)
    if isinstance(values.get("recipe"), str):
        values["recipe"] = _keys_of(path.parent / values["recipe"])
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{path}: {'; '.join(explain(error, kind, what))}.") from None


_AMOUNTS = {"mixture.leverage_ratio", "mixture.general_examples"}
"""Keys of the amount of general data; a method or task with its own has no ratios of the study."""
_VARIED = {"seed": "seeds", "task.max_tokens": "sizes", "method": "methods"}
"""Recipe keys that keys of the study set."""


def cells_of(spec: StudySpec, *, name: str = "study", folder: Path | None = None) -> list[Cell]:
    """Return all cells of a study, sorted by seed, then by size.

    A cell that is in two blocks is included once. A method that does not use task data, general
    data or a seed has one cell for all their values.

    Raises:
        RecipeError: A method or task is unknown, the recipe of a cell is invalid, two different
            methods share a name and size, or methods answer other test items or are scored by other
            metrics.
    """
    tasks = {task.name: task for task in spec.tasks} or {"": TaskEntry(name="", keys={})}
    if len(tasks) < len(spec.tasks):
        raise RecipeError(f"{name}: two tasks have the same name; rename one.")
    cells: dict[Cell, None] = {}
    entries: dict[tuple[Any, ...], MethodEntry] = {}
    for block in [Block(), *spec.more]:
        unknown = [task for task in block.tasks or () if task not in tasks]
        if unknown:
            raise RecipeError(
                f"{name}: `more` names the task `{unknown[0]}`, which is not in `tasks`."
            )
        seeds: Sequence[int | None] = block.seeds or spec.seeds or [None]
        ratios: Sequence[float | None]
        ratios = block.leverage_ratios or spec.leverage_ratios or [None]
        for seed, size, task, method, ratio in product(
            seeds,
            block.sizes or spec.sizes,
            block.tasks or tasks,
            block.methods or spec.methods,
            ratios,
        ):
            cell = _cell(spec, tasks[task], method, size, ratio, seed, name=name, folder=folder)
            point = (cell.task, cell.name, cell.size, cell.leverage_ratio)
            if entries.setdefault(point, method) != method:
                raise RecipeError(
                    f"{name}: two methods are named `{method.name}` but differ in `method` or "
                    "`set`; give one of them another `name`."
                )
            cells.setdefault(cell)
    _check_alike(cells, name)
    return sorted(cells, key=lambda cell: (cell.seed, cell.size or 0))


def _check_alike(cells: Iterable[Cell], name: str) -> None:
    """Check that all methods of a task answer the same items and are scored by the same metrics."""
    first: dict[str, Cell] = {}
    for cell in cells:
        other = first.setdefault(cell.task, cell)
        for section, key in (
            ("task", "embedded"),
            ("task", "test"),
            ("evaluation", "max_items"),
            ("evaluation", "metrics"),
        ):
            ours, theirs = (getattr(getattr(one.recipe, section), key) for one in (cell, other))
            if ours != theirs:
                raise RecipeError(
                    f"{name}: `{section}.{key}` differs between {other.name} and {cell.name}, so "
                    "their scores cannot be compared; set it for all methods of the task."
                )


def _cell(
    spec: StudySpec,
    task: TaskEntry,
    entry: MethodEntry,
    size: int,
    ratio: float | None,
    seed: int | None,
    *,
    name: str,
    folder: Path | None,
) -> Cell:
    # Its import of PyTorch is slow, and the keys of a study are checked before.
    from telltune.methods.registry import get_method

    method = get_method(entry.method)
    values = merged_keys(spec.recipe, task.keys) | {"method": method.name}
    where = f"{name} ({task.name or 'task'}, {entry.name})"
    given, own = _dotted(entry.set, where), _dotted(task.keys, where)
    for key, of in _VARIED.items():
        if key in given or (key in own and (key != "seed" or seed is not None)):
            place = "`set`" if key in given else "the task"
            raise RecipeError(f"{where}: `{of}` sets `{key}`; remove it from {place}.")
    if not method.depends_on_size:
        values["seed"] = 0
    elif seed is not None:
        values["seed"] = seed
    if method.depends_on_size:
        given["task.max_tokens"] = size
    if not method.uses_general:
        values["general"] = None
    elif ratio is not None and not (given | own).keys() & _AMOUNTS:
        given["mixture.leverage_ratio"] = ratio
    values, given = copy.deepcopy((values, given))
    try:
        for key, value in given.items():
            put(values, key, value)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}.") from None
    recipe = recipe_from_dict(values, name=where, folder=folder)
    if "mixture.leverage_ratio" in given and recipe.mixture.general_examples is not None:
        raise RecipeError(
            f"{where}: `mixture.general_examples` stands in place of a leverage ratio; remove it, "
            "or the ratios."
        )
    return cell_of(recipe, task=task.name, name=entry.name)


def _dotted(keys: dict[str, Any], where: str) -> dict[str, Any]:
    """Return recipe keys with those in sections as `section.key`.

    Raises:
        RecipeError: A key is given in both forms.
    """
    found: dict[str, Any] = {}
    for name, value in keys.items():
        inner = {name: value}
        if isinstance(value, dict) and value and "." not in name:
            inner = {f"{name}.{key}": each for key, each in value.items()}
        if twice := found.keys() & inner:
            raise RecipeError(f"{where}: `{min(twice)}` is given twice; remove one of them.")
        found |= inner
    return found


def cell_of(recipe: Recipe, *, task: str = "", name: str = "") -> Cell:
    """Return the cell that runs a recipe, by default named after its data and its method.

    Raises:
        RecipeError: The method is unknown.
    """
    from telltune.methods.registry import get_method

    method = get_method(recipe.method)
    return Cell(
        task or _name_of(recipe),
        method.name,
        name or method.name,
        recipe.task.max_tokens if method.depends_on_size else None,
        recipe.mixture.leverage_ratio if method.uses_general else None,
        recipe.seed,
        recipe,
    )


def _name_of(recipe: Recipe) -> str:
    """Return the name of the embedded task, or the stem of the first training file."""
    files = recipe.task.train
    return Path(files[0].path).stem if files else str(recipe.task.embedded)


def _keys_of(path: Path) -> dict[str, Any]:
    """Return the keys of a recipe file, with resolved data paths."""
    values: dict[str, Any] = load_recipe(path).model_dump(mode="json", exclude_unset=True)
    return values


def merged_keys(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; values of `above` take precedence."""
    merged = copy.deepcopy(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        # A task replaces the recipe's own task as a whole.
        merged[key] = merged_keys(merged[key], value) if both and key != "task" else value
    return merged
