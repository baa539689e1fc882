"""Check and forecast of the cells of a study before they run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from telltune.data.task import TaskData, load_general, load_task
from telltune.errors import TellError
from telltune.fitting.build_plan import build_run_plan, check_needs
from telltune.fitting.forecast import forecast
from telltune.fitting.model_info import ModelInfo, load_model_info
from telltune.fitting.protocol import teacher_of
from telltune.fitting.trained_method import TrainedMethod
from telltune.methods.baselines import Baseline
from telltune.methods.few_shot import FewShot
from telltune.methods.over_prompt import OverPrompt
from telltune.methods.registry import get_method
from telltune.study.results import ResultRow, Results, is_finished, place
from telltune.training.shared import can_share

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from telltune.data.general import GeneralData
    from telltune.fitting.run_plan import RunPlan
    from telltune.study.spec import Cell


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
    """

    cell: Cell
    trained_tokens: int = 0
    training_seconds: float | None = 0.0
    answering_seconds: float | None = None
    problem: str = ""


def plan_cells(
    cells: Sequence[Cell], out: Path | None, *, measure: bool, needs_forgetting: bool = False
) -> list[PlannedCell]:
    """Forecast every cell that is not finished; `measure` the speed if it is unknown."""
    rows = Results(out).rows if out is not None else []
    done = {place(row) for row in rows if is_finished(row, needs_forgetting=needs_forgetting)}
    answering: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.status == "done":
            answering[row.task].append(sum(row.seconds.values()) - row.seconds["training"])
    models: dict[str, ModelInfo] = {}
    planned: list[PlannedCell] = []
    trained: set[tuple[str, str]] = set()
    for cell in cells:
        if place(cell) in done:
            continue
        spec = cell.recipe.model
        if spec.model_dump_json() not in models:
            models[spec.model_dump_json()] = load_model_info(spec)
        besides = median(answering[cell.task]) if answering[cell.task] else None
        model = models[spec.model_dump_json()]
        planned.append(_planned(cell, model, besides, trained, measure=measure))
    return planned


def _planned(
    cell: Cell,
    model: ModelInfo,
    answering: float | None,
    trained: set[tuple[str, str]],
    *,
    measure: bool,
) -> PlannedCell:
    try:
        run_plan = plan_cell(cell, load_task(cell.recipe), load_general(cell.recipe), model)
    except TellError as error:
        return PlannedCell(cell, problem=str(error))
    if run_plan is None:
        return PlannedCell(cell, answering_seconds=answering)
    training = (cell.task, _training_of(cell))
    if training in trained:
        return PlannedCell(cell, answering_seconds=answering)
    if run_plan.dev is None and can_share(cell.recipe):  # answers to dev items choose a checkpoint
        trained.add(training)
    expected = forecast(run_plan, model.shape, measure=measure)
    # A study loads the base once, so the time before the first training step is excluded.
    seconds = expected.training_seconds
    return PlannedCell(cell, run_plan.counts.trained_tokens, seconds, answering)


def plan_cell(
    cell: Cell, task: TaskData, general: GeneralData | None, model: ModelInfo
) -> RunPlan | None:
    """Check that a cell can run, and return its run plan; None if it trains nothing.

    Raises:
        TellError: The cell cannot run.
    """
    method, recipe = get_method(cell.method), cell.recipe
    if isinstance(method, TrainedMethod):
        return build_run_plan(method, task, general, model, method.configured(recipe))
    check_needs(method, anchored=task.anchor is not None, general=general is not None)
    if isinstance(method, Baseline):
        method.data(task, model.tokenizer.load(), recipe)
    elif isinstance(method, FewShot):
        method.labels(task, task.train)
    if isinstance(method, FewShot | OverPrompt) and method.by_teacher:
        teacher_of(recipe, method.name)
    return None


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
