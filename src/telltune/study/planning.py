"""Forecast of the cells of a study before it runs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from telltune.data.task import load_general, load_task
from telltune.errors import TellError
from telltune.fitting.build_plan import build_run_plan
from telltune.fitting.forecast import forecast
from telltune.fitting.model_info import load_model_info
from telltune.fitting.trained_method import TrainedMethod
from telltune.methods.registry import get_method
from telltune.study.results import Results, is_finished

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from telltune.fitting.model_info import ModelInfo
    from telltune.study.spec import Cell

__all__ = ["PlannedCell", "plan_cells"]


@dataclass(frozen=True)
class PlannedCell:
    """A cell that has no row yet.

    Attributes:
        cell: The cell.
        trained_tokens: Number of tokens that it will train on.
        training_seconds: Expected training time; None if the machine's speed is unknown.
        answering_seconds: Median time outside training of finished cells of its task; None if there
            are none.
        problem: Reason why it cannot run, if known in advance.
    """

    cell: Cell
    trained_tokens: int = 0
    training_seconds: float | None = 0.0
    answering_seconds: float | None = None
    problem: str = ""


def plan_cells(
    cells: Sequence[Cell], out: Path | None, *, measure: bool, needs_forgetting: bool = False
) -> list[PlannedCell]:
    """Forecast every cell that is not finished.

    Args:
        cells: Cells from `load_study`.
        out: Folder of the study, if it has one.
        measure: Whether to train on a few rows if the machine's speed is unknown.
        needs_forgetting: Whether forgetting is measured; see `measures_forgetting`.
    """
    rows = Results(out).rows if out is not None else []
    done = {
        (row.task, row.name, row.size, row.leverage_ratio, row.seed)
        for row in rows
        if is_finished(row, needs_forgetting=needs_forgetting)
    }
    answering: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.status == "done":
            answering[row.task].append(sum(row.seconds.values()) - row.seconds["training"])
    models: dict[str, ModelInfo] = {}
    planned = []
    for cell in cells:
        if (cell.task, cell.name, cell.size, cell.leverage_ratio, cell.seed) in done:
            continue
        spec = cell.recipe.model
        if spec.model_dump_json() not in models:
            models[spec.model_dump_json()] = load_model_info(spec)
        besides = median(answering[cell.task]) if answering[cell.task] else None
        planned.append(_planned(cell, models[spec.model_dump_json()], besides, measure=measure))
    return planned


def _planned(
    cell: Cell, model: ModelInfo, answering: float | None, *, measure: bool
) -> PlannedCell:
    method, recipe = get_method(cell.method), cell.recipe
    if not isinstance(method, TrainedMethod):
        return PlannedCell(cell, answering_seconds=answering)
    try:
        run_plan = build_run_plan(method, load_task(recipe), load_general(recipe), model, recipe)
    except TellError as error:
        return PlannedCell(cell, problem=str(error))
    expected = forecast(run_plan, model.shape, measure=measure)
    # A study loads the base once, so the time before the first training step is excluded.
    seconds = expected.training_seconds
    return PlannedCell(cell, run_plan.counts.trained_tokens, seconds, answering)
