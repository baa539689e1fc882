"""Specification of a task order: its tasks, strategies, seeds and abilities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationInfo, field_validator

from telltune.errors import RecipeError
from telltune.recipe.base import ConfigModel, short
from telltune.research.continual.abilities import Ability
from telltune.research.continual.trace import TraceSpec, trace_tasks
from telltune.study.spec import Tasks, read_spec

Strategy = Literal[
    "sequential", "sequential_replay", "replay", "tell", "rcl", "adapters", "in_context"
]
STRATEGIES: dict[Strategy, str] = {
    "sequential": "sft_anchor",
    "sequential_replay": "sft_anchor",
    "replay": "tell",
    "tell": "tell",
    "rcl": "rcl",
    "adapters": "tell",
    "in_context": "few_shot",
}
"""Method that learns each task, by strategy:

- `sequential`: SFT with the anchor, one adapter for all tasks.
- `sequential_replay`: the same, and after each task SFT on a tenth of each earlier task and on
  general examples, a fifth of the task's number. This is TRACE's replay.
- `replay`: TELL with one adapter, with a tenth of each earlier task and general data mixed in.
- `tell`: TELL at every step, one adapter for all tasks.
- `rcl`: SFT with the anchor on a rationale followed by the answer, one adapter for all tasks. A
  task with neither rationales nor labels as answers is learned from its answers alone.
- `adapters`: TELL with a separate adapter per task, so that no task is forgotten.
- `in_context`: examples of the task in the base's prompt.

A task without an anchor is learned by the same methods without it.

With `training.full_parameters: true` all weights are trained instead of an adapter. One model then
learns all tasks in sequence (`sequential` is TRACE's SeqFT), while `adapters` starts from the base
for each task.
"""


class ContinualSpec(ConfigModel):
    """Specification of a continual-learning run: ordered tasks, strategies and seeds.

    Example:
        ```yaml
        recipe: demo.yaml
        tasks: [medical_specialty, mention_json, restore_text]
        strategies: [sequential, replay, tell]
        seeds: [0, 1, 2]
        ```
    """

    recipe: dict[str, Any]
    """Recipe keys shared by all tasks, or the name of a recipe file in the same folder."""
    tasks: Tasks = Field(default=[])
    """Tasks as in a study, learned in this order: two or more."""
    trace: Annotated[TraceSpec | None, short("folder")] = Field(default=None, validate_default=True)
    """TRACE's benchmark, in place of `tasks`: its folder, or a mapping with `folder` and
    `max_examples`. Its eight tasks are learned in the published order."""
    strategies: list[Strategy] = Field(default=list(STRATEGIES), min_length=1)
    """Strategies to learn the tasks with."""
    seeds: list[NonNegativeInt] = Field(default=[0], min_length=1)
    """Random seeds. Each seed draws its own task data, order and initialization."""
    general_items: PositiveInt = 50
    """Number of held-out general examples whose loss is measured before and after each task."""
    abilities: dict[Ability, Tasks] = Field(default={})
    """Tasks, as in a study, whose test items are scored before and after all tasks, by ability:
    `general` (ΔG), `instructions` (ΔI) and `safety` (ΔS)."""

    @field_validator("trace")
    @classmethod
    def _is_in_place_of_tasks(
        cls, trace: TraceSpec | None, info: ValidationInfo
    ) -> TraceSpec | None:
        # Invalid `tasks` are missing from `info.data`.
        if "tasks" in info.data and (trace is None) == (len(info.data["tasks"]) < 2):
            raise ValueError("give two or more `tasks`, or `trace`")
        return trace


def load_continual(path: str | Path) -> ContinualSpec:
    """Read a task order from a YAML file.

    Raises:
        RecipeError: A key of the file is invalid, or two tasks have the same name.
        DataError: A file of TRACE is missing.
    """
    path = Path(path)
    spec = read_spec(path, ContinualSpec, "task order")
    if spec.trace is not None:
        spec = spec.model_copy(update={"tasks": trace_tasks(spec.trace, path.parent)})
    beside = [task for tasks in spec.abilities.values() for task in tasks]
    names = [task.name for task in (*spec.tasks, *beside)]
    if len(set(names)) < len(names):
        raise RecipeError(f"{path}: two tasks have the same name; rename one.")
    return spec
