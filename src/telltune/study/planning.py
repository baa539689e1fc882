"""Check and forecast of the cells of a study before they run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from telltune.errors import TellError
from telltune.fitting.forecast import forecast
from telltune.fitting.model_info import ModelInfo, load_model_info
from telltune.fitting.trained_method import TrainedMethod
from telltune.methods.registry import get_method
from telltune.study.cell_data import CellData
from telltune.study.results import ResultRow, Results
from telltune.training.shared import can_share

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from telltune.data.files import Split
    from telltune.recipe import Recipe
    from telltune.study.spec import Cell, ForgettingSpec


@dataclass(frozen=True)
class PlannedCell:
    """A cell that has no row yet.

    Attributes:
        trained_tokens: Number of tokens that it will train on.
        training_seconds: Expected training time; None if the machine's speed is unknown. It is 0
            if an earlier cell of the plan has the same training; see `SharedTraining`.
        answering_seconds: Median time outside training of finished cells of its task; None if there
            are none.
        problem: Reason why it cannot run, if known in advance.
        all_tokens: Number of tokens of all of its task data, if its size is above it; else 0.
    """

    cell: Cell
    trained_tokens: int = 0
    training_seconds: float | None = 0.0
    answering_seconds: float | None = None
    problem: str = ""
    all_tokens: int = 0


def cells_left(keys: Mapping[Cell, str], data: CellData, results: Results) -> dict[str, Cell]:
    """Return the cells without a finished row, by key; equal work is left once."""
    left: dict[str, Cell] = {}
    for cell, key in keys.items():
        row = results.find(cell, key)
        if row is None or not data.is_finished(cell, row):
            left.setdefault(key, cell)
    return left


def plan_cells(
    cells: Sequence[Cell],
    out: Path | None,
    forgetting: ForgettingSpec,
    *,
    measure: bool,
    split: Split = "test",
    general: Recipe | None = None,
    data: CellData | None = None,
) -> list[PlannedCell]:
    """Forecast every cell that is not finished.

    Args:
        cells: Cells of a study or search.
        out: Folder of finished cells, if there is one.
        forgetting: Settings of the forgetting measurements.
        measure: Whether to measure the speed if it is unknown.
        split: As in `run_cells`.
        general: As in `run_cells`.
        data: As in `run_cells`.
    """
    data = data or CellData.of_cells(cells, forgetting, split, general)
    model_info = cache(load_model_info)
    results = Results(out) if out is not None else None
    answering: dict[str, list[float]] = defaultdict(list)
    for row in results.rows if results else ():
        if row.status == "done":
            answering[row.task].append(sum(row.seconds.values()) - row.seconds["training"])
    planned: list[PlannedCell] = []
    trained: set[tuple[str, str]] = set()
    for cell in cells:
        besides = median(answering[cell.task]) if answering[cell.task] else None
        try:
            # The data need not be hashed if there are no rows.
            if results and results.rows and not cells_left(data.keys([cell]), data, results):
                continue
            model = model_info(cell.recipe.model)
            planned.append(_planned(cell, data, model, besides, trained, measure=measure))
        except TellError as error:
            planned.append(PlannedCell(cell, problem=str(error)))
    return planned


def _planned(
    cell: Cell,
    data: CellData,
    model: ModelInfo,
    answering: float | None,
    trained: set[tuple[str, str]],
    *,
    measure: bool,
) -> PlannedCell:
    run_plan = data.run_plan(cell, model)
    data.held_out(cell.seed, run_plan.max_general_index if run_plan else 0)
    if run_plan is None:
        return PlannedCell(cell, answering_seconds=answering)
    counts = run_plan.counts
    given = len(data.task(cell.recipe).task.train)
    above = counts.task_examples == given and (cell.size or 0) > counts.task_tokens
    all_tokens = counts.task_tokens if above else 0
    training = (cell.task, _training_of(cell))
    if training in trained:
        return PlannedCell(cell, answering_seconds=answering, all_tokens=all_tokens)
    if run_plan.dev is None and can_share(cell.recipe):  # answers to dev items choose a checkpoint
        trained.add(training)
    expected = forecast(run_plan, model.shape, measure=measure)
    # A study loads the base once, so the time before the first training step is excluded.
    seconds = expected.training_seconds
    return PlannedCell(cell, counts.trained_tokens, seconds, answering, all_tokens=all_tokens)


def sizes_above(planned: Iterable[PlannedCell]) -> list[str]:
    """Return a warning for each task with sizes above its data, which are equal work."""
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for one in planned:
        if one.all_tokens and one.cell.size is not None:
            found[one.cell.task][one.cell.size] = one.all_tokens
    warnings = []
    for task, by_size in found.items():
        sizes = ", ".join(f"{size:,}" for size in sorted(by_size))
        more = " and do equal work; keep one of these sizes" if len(by_size) > 1 else ""
        warnings.append(
            f"{task}: cells of {sizes} task tokens train on all of its "
            f"{max(by_size.values()):,} tokens{more}."
        )
    return warnings


def side_by_side(cells: dict[str, Cell]) -> dict[str, Cell]:
    """Move cells with the same training behind the first of them, so that it is done once."""
    groups: dict[str, list[str]] = {}
    for key, cell in cells.items():
        groups.setdefault(_training_of(cell) or key, []).append(key)
    return {key: cells[key] for keys in groups.values() for key in keys}


def _training_of(cell: Cell) -> str:
    """Return what sets a cell's training besides the data; empty if it trains no adapter."""
    method = get_method(cell.method)
    return method.training(cell.recipe) if isinstance(method, TrainedMethod) else ""


def expected_seconds(cells: Sequence[Cell], rows: Iterable[ResultRow]) -> list[float]:
    """Estimate the seconds of each cell, accurately enough to start with the longest.

    The estimate interpolates over the trained tokens of finished cells of the same method and task,
    else of the same method, else of any method. Without finished cells it is a number of tokens.
    """
    finished = [row for row in rows if row.status == "done"]
    return [_expected(cell, finished) for cell in cells]


def _expected(cell: Cell, finished: list[ResultRow]) -> float:
    alike = (
        [row for row in finished if (row.task, row.name) == (cell.task, cell.name)]
        or [row for row in finished if row.name == cell.name]
        or finished
    )
    if not alike:
        return _tokens(cell)
    alike = sorted(alike, key=_tokens)
    known = [sum(row.seconds.values()) for row in alike]
    return float(np.interp(_tokens(cell), [_tokens(row) for row in alike], known))


def _tokens(cell: Cell | ResultRow) -> float:
    """Return the approximate number of tokens that a cell trains on in one pass."""
    return (cell.size or 0) * (1 + (cell.leverage_ratio or 0.0))
