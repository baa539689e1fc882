"""Verbs of studies as Python functions: run, plan and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from telltune.errors import RecipeError
from telltune.html_report.page import REPORT
from telltune.storage import write_text
from telltune.study.cell_data import CellData
from telltune.study.cluster import connect
from telltune.study.planning import plan_cells, sizes_above
from telltune.study.report.page import write_report
from telltune.study.runner import claim_folder, run_cells
from telltune.study.spec import STUDY_FILE, load_study

if TYPE_CHECKING:
    from collections.abc import Callable

    from telltune.study.results import ResultRow
    from telltune.study.spec import Cell, StudySpec
    from telltune.study.statistics.summary import Summary


def run_study(
    study: str | Path,
    out: str | Path,
    *,
    progress: bool = True,
    ray: str | None = None,
    cpus: float = 1.0,
    gpus: float | None = None,
    answer_cpus: float | None = None,
    on_plan: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[Summary, list[ResultRow]]:
    """Run methods x sizes x seeds on tasks: every cell without a finished row in `out`.

    Args:
        study: Study file in YAML; see `StudySpec`.
        out: Output folder for results.jsonl, answers, summary.json, report.html, and study.yaml
            with the whole study.
        progress: Whether to show progress bars.
        ray: Ray cluster that runs the cells: `auto` or HOST:PORT. None runs them on this machine.
        cpus: CPUs per cell on the cluster.
        gpus: GPUs per cell on the cluster; by default one if the cluster has GPUs.
        answer_cpus: CPUs of a separate task on the cluster that answers the items of each trained
            cell, while the next cell trains. By default a cell answers where it trained.
        on_plan: Function that gets the plan, as of `plan_study`, before the cells run.

    Returns:
        The summary of the study's cells, and their rows.

    Raises:
        TellError: The study cannot be run, or none of its cells can.

    Examples:
        >>> summary, rows = telltune.run_study("recipes/study.yaml", "runs/study", progress=False)
        >>> print(summary.comparisons)
    """
    out = Path(out)
    spec, cells = load_study(study)
    elsewhere = None
    if ray is None and (cpus, gpus, answer_cpus) != (1.0, None, None):
        raise RecipeError(
            "--cpus, --gpus and --answer-cpus are for a cluster; name it with --ray, e.g. `auto`."
        )
    data = CellData.of_cells(cells, spec.forgetting, "test", None)
    if on_plan is not None:
        on_plan(_plan(spec, cells, out, measure=False, data=data))
    if ray is not None:
        elsewhere = connect(ray, cpus=cpus, gpus=gpus, answer_cpus=answer_cpus).run
    claim_folder(out)
    write_text(out / STUDY_FILE, spec.to_yaml())
    rows = run_cells(
        cells,
        spec.forgetting,
        out,
        whole=True,
        progress=progress,
        elsewhere=elsewhere,
        data=data,
    )
    return write_report(out), rows


def report(out: str | Path) -> Path:
    """Write a study's report again from its finished cells.

    Args:
        out: Folder of the study, which may still be running.

    Returns:
        Path of the report, one HTML file that needs no network. summary.json is written to the
        same folder.

    Raises:
        StorageError: There are no finished cells.

    Examples:
        >>> print(telltune.report("runs/study"))
        runs/study/report.html
    """
    write_report(Path(out))
    return Path(out) / REPORT


def plan_study(
    study: str | Path, out: str | Path | None = None, *, measure: bool = True
) -> dict[str, Any]:
    """Return the size and time of a study without running it.

    Args:
        study: Study file in YAML.
        out: Folder of the study. Its finished cells are skipped, and their answering times are
            used for the estimate.
        measure: Whether to measure unknown speeds. If False, times are None if this machine has
            not trained such a model yet.

    Returns:
        cells, finished, trained_tokens, training_seconds, answering_seconds (None if no cell has
        been run yet), problems, with the title and reason of each cell that cannot run, and
        warnings about sizes above the data, one sentence each.

    Examples:
        >>> planned = telltune.plan_study("recipes/study.yaml")
        >>> planned["cells"], planned["finished"]
        (32, 0)
    """
    spec, cells = load_study(study)
    return _plan(spec, cells, None if out is None else Path(out), measure=measure)


def _plan(
    spec: StudySpec,
    cells: list[Cell],
    out: Path | None,
    *,
    measure: bool,
    data: CellData | None = None,
) -> dict[str, Any]:
    planned = plan_cells(cells, out, spec.forgetting, measure=measure, data=data)
    training = [one.training_seconds for one in planned]
    answering = [one.answering_seconds for one in planned]
    return {
        "cells": len(cells),
        "finished": len(cells) - len(planned),
        "trained_tokens": sum(one.trained_tokens for one in planned),
        "training_seconds": _sum(training),
        "answering_seconds": _sum(answering),
        "problems": [
            {"cell": one.cell.title, "reason": one.problem} for one in planned if one.problem
        ],
        "warnings": sizes_above(planned),
    }


def _sum(values: list[float | None]) -> float | None:
    """Return the sum, or None if a value is unknown."""
    known = [value for value in values if value is not None]
    return round(sum(known), 1) if len(known) == len(values) else None
