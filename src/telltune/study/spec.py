"""What a study is: methods x sizes x seeds on tasks, and the cells that this comes to."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

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
from telltune.methods.registry import get_method
from telltune.recipe import Recipe, explain, load_recipe, read_yaml, recipe_from_dict

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "STUDY_FILE",
    "Cell",
    "ForgettingSpec",
    "StudySpec",
    "TaskEntry",
    "Tasks",
    "asks_aside",
    "cells_of",
    "load_study",
    "merged_keys",
    "read_spec",
]

STUDY_FILE = "study.yaml"
"""In a study's folder: the study as it was run last."""


Spec = TypeVar("Spec", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class TaskEntry(_Part):
    """A task, as recipe keys that differ from the study's recipe."""

    name: str
    """In tables."""
    keys: dict[str, Any]
    """`task`, and often `anchor` and `evaluation`."""


def _as_task(value: Any) -> Any:
    """An embedded task's name, or recipe keys with a `name` beside them."""
    if isinstance(value, str):
        return {"name": value, "keys": {"task": {"embedded": value}, "anchor": None}}
    if isinstance(value, dict) and "keys" not in value:
        keys = {"anchor": None} | {k: v for k, v in value.items() if k != "name"}
        return {"name": value.get("name"), "keys": keys}
    return value


class MethodEntry(_Part):
    """A method, perhaps under settings of its own."""

    method: str
    """Its name in recipes."""
    name: str
    """In tables; the method's own where none is given."""
    set: dict[str, Any] = {}
    """Recipe keys such as `mixture.passes`, and their values."""


def _as_method(value: Any) -> Any:
    if isinstance(value, str):
        return {"method": value, "name": value}
    if isinstance(value, dict) and "method" in value:
        return {"name": value["method"]} | value
    return value


Tasks = list[Annotated[TaskEntry, BeforeValidator(_as_task)]]
Methods = list[Annotated[MethodEntry, BeforeValidator(_as_method)]]


class Block(_Part):
    """More cells: what is not given is as in the study."""

    tasks: list[str] | None = None
    """Names of the study's tasks."""
    methods: Methods | None = None
    sizes: list[PositiveInt] | None = None
    leverage_ratios: list[NonNegativeFloat] | None = None
    seeds: list[NonNegativeInt] | None = None


class ForgettingSpec(_Part):
    """What is asked of a model beside its task; see docs/guides/studies.md."""

    examples: NonNegativeInt = 100
    """Held-out general examples whose loss is taken before and after; 0 takes none."""
    prompts: NonNegativeInt = 40
    """Of them, how many are answered without the anchor, to see whether the task leaks."""


class StudySpec(_Part):
    """A study.

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
    """What all cells share: recipe keys, or the name of a recipe beside the study."""
    tasks: Tasks = []
    """Embedded tasks by name, or recipe keys with a `name`; the recipe's own task if not given."""
    methods: Methods = Field(min_length=1)
    """Names, or mappings with `method`, `name` and `set`."""
    sizes: list[PositiveInt] = Field(min_length=1)
    """Task tokens; a smaller size is a part of a larger one."""
    leverage_ratios: list[NonNegativeFloat] | None = None
    """General tokens / task tokens, for methods that mix; the recipe's if not given."""
    seeds: list[NonNegativeInt] = [0]
    """Each draws its own task data, order and start of the adapter."""
    more: list[Block] = []
    """Cells outside the grid."""
    forgetting: ForgettingSpec = ForgettingSpec()
    """What is measured beside the task."""

    def to_yaml(self) -> str:
        """The study with every default written out."""
        text: str = yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )
        return text


@dataclass(frozen=True)
class Cell:
    """One method x size x seed on a task.

    Attributes:
        task: Its name in tables.
        method: Its name in recipes.
        name: Its name in tables.
        size: Task tokens that it may use; None where the method uses no task data.
        leverage_ratio: General tokens / task tokens; None where it does not mix.
        seed: Of the draw, the order and the adapter.
        recipe: All that it runs with.
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
        """For people."""
        parts = [self.task, self.name]
        if self.size is not None:
            parts.append(f"{self.size:,} tokens")
        if self.leverage_ratio is not None:
            parts.append(f"ratio {self.leverage_ratio:g}")
        return ", ".join([*parts, f"seed {self.seed}"])


def load_study(path: str | Path) -> tuple[StudySpec, list[Cell]]:
    """Read a study and lay out its cells.

    Raises:
        RecipeError: A key, a method, a task or a recipe that is not right, by name.
    """
    path = Path(path)
    spec = read_spec(path, StudySpec, "study")
    return spec, cells_of(spec, name=str(path), folder=path.parent)


def read_spec(path: Path, kind: type[Spec], what: str) -> Spec:
    """Read a file whose `recipe` may be keys or the name of a recipe beside it.

    Args:
        path: In YAML.
        kind: What it holds.
        what: It is called so in messages.

    Raises:
        RecipeError: What is wrong with it, by key.
    """
    values = read_yaml(path, what)
    if isinstance(values.get("recipe"), str):
        values["recipe"] = _keys_of(path.parent / values["recipe"])
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{path}: {'; '.join(explain(error, kind, what))}.") from None


def asks_aside(cells: Sequence[Cell], forgetting: ForgettingSpec) -> bool:
    """Whether models are asked about general examples beside their task: where a cell has any."""
    return forgetting.examples > 0 and any(cell.recipe.general for cell in cells)


def cells_of(spec: StudySpec, *, name: str = "study", folder: Path | None = None) -> list[Cell]:
    """All cells, in the order in which they are most use: seed by seed, the small ones first.

    A cell that two blocks name is there once, and a method that does not use task data, general
    data or a seed has one cell for all of them.

    Raises:
        RecipeError: An unknown method or task, or a cell whose recipe is not right.
    """
    tasks = {task.name: task for task in spec.tasks} or {"": TaskEntry(name="", keys={})}
    if len(tasks) < len(spec.tasks):
        raise RecipeError(f"{name}: two tasks have the same name; give each its own.")
    cells: dict[Cell, None] = {}
    for block in [Block(), *spec.more]:
        unknown = [task for task in block.tasks or () if task not in tasks]
        if unknown:
            raise RecipeError(f"{name}: `more` names the task `{unknown[0]}`, not in `tasks`.")
        seeds = block.seeds if block.seeds is not None else spec.seeds
        sizes = block.sizes if block.sizes is not None else spec.sizes
        ratios: Sequence[float | None]
        ratios = block.leverage_ratios or spec.leverage_ratios or [None]
        methods = block.methods if block.methods is not None else spec.methods
        for seed, size, task, method, ratio in product(
            seeds, sizes, block.tasks or tasks, methods, ratios
        ):
            cell = _cell(spec, tasks[task], method, size, ratio, seed, name=name, folder=folder)
            cells.setdefault(cell)
    return sorted(cells, key=lambda cell: (cell.seed, cell.size or 0))


def _cell(
    spec: StudySpec,
    task: TaskEntry,
    entry: MethodEntry,
    size: int,
    ratio: float | None,
    seed: int,
    *,
    name: str,
    folder: Path | None,
) -> Cell:
    method = get_method(entry.method)
    values = merged_keys(spec.recipe, task.keys) | {"method": method.name}
    overrides = [f"{key}={yaml.safe_dump(v).strip()}" for key, v in entry.set.items()]
    values["seed"] = seed if method.sized else 0
    if method.sized:
        overrides.append(f"task.max_tokens={size}")
    if not method.mixes:
        values["general"] = None
    elif ratio is not None and "mixture.leverage_ratio" not in entry.set:
        overrides.append(f"mixture.leverage_ratio={ratio}")
    recipe = recipe_from_dict(
        values,
        name=f"{name} ({task.name or 'task'}, {entry.name})",
        folder=folder,
        overrides=overrides,
    )
    return Cell(
        task.name or _name_of(recipe),
        method.name,
        entry.name,
        size if method.sized else None,
        recipe.mixture.leverage_ratio if method.mixes else None,
        recipe.seed,
        recipe,
    )


def _name_of(recipe: Recipe) -> str:
    """An embedded task's name, or its first file's."""
    files = recipe.task.train
    return Path(files[0].path).stem if files else str(recipe.task.embedded)


def _keys_of(path: Path) -> dict[str, Any]:
    """What a recipe file says, with its data's places written out."""
    values: dict[str, Any] = load_recipe(path).model_dump(mode="json", exclude_unset=True)
    return values


def merged_keys(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings joined; where both have a value, the one above counts."""
    merged = copy.deepcopy(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        # Another task shares nothing with the recipe's own.
        merged[key] = merged_keys(merged[key], value) if both and key != "task" else value
    return merged
