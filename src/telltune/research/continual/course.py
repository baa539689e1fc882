"""Continual learning: tasks learned in sequence, and forgetting (TRACE, arXiv 2310.06762).

A strategy learns the tasks in order. After each task, all tasks learned so far are scored. Each
strategy, seed and task is one row of continual.jsonl with these scores, from which the matrix R and
all derived values are computed. An interrupted run resumes with the unfinished task.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from telltune.fitting.output_folder import SETTINGS, check_new, check_settings, lock_folder
from telltune.research.continual.abilities import mean_change
from telltune.research.continual.learner import Learner, Step
from telltune.research.continual.page import ContinualReport, write_page
from telltune.research.continual.scores import backward_transfer, overall_performance
from telltune.research.continual.spec import ContinualSpec, Strategy, load_continual
from telltune.storage import jsonl_lines, remove_unfinished, write_json, write_text
from telltune.study.cell_data import CellData
from telltune.study.results import cell_key
from telltune.study.spec import ForgettingSpec, cell_of
from telltune.training.progress import bar, phase

_ROWS = "continual.jsonl"
_SUMMARY = "summary.json"


def run_continual(order: str | Path, out: str | Path, *, progress: bool = True) -> ContinualReport:
    """Learn the tasks in order with each strategy, and score all learned tasks after each one.

    A repeated call on the same folder resumes with the first unfinished step.

    Args:
        order: YAML file with the task order; see `ContinualSpec`.
        out: Output folder for continual.jsonl, the last adapters, summary.json and report.html.
        progress: Whether to show a progress bar.

    Raises:
        RecipeError: The task order is invalid, or a task has no test data.
        DataError: The task data cannot be loaded; see `load_task`.
        StorageError: The folder holds other files, or a run of other tasks, recipes or data.
    """
    order, out = Path(order), Path(out)
    spec = load_continual(order)
    with lock_folder(out):
        remove_unfinished(out)
        steps = _read(out)
        if not steps and not (out / SETTINGS).exists():  # Earlier versions wrote no settings.
            check_new(out)
        with phase("reading the tasks", shown=progress):
            learner = Learner(spec, order, out)
            learner.check()
            settings = _settings(spec, learner)
        check_settings(out, settings)
        write_json(out / SETTINGS, settings)
        _write(out, steps)
        with bar(shown=progress) as shown:
            total = len(spec.strategies) * len(spec.seeds) * len(spec.tasks)
            runs = [(strategy, seed) for seed in spec.seeds for strategy in spec.strategies]
            done = {run: [s for s in steps if (s.strategy, s.seed) == run] for run in runs}
            finished = sum(map(len, done.values()))
            counter = shown.add_task("course", total=total, completed=finished, unit="task")
            for strategy, seed in runs:
                for step in learner.learn(strategy, seed, done[strategy, seed]):
                    steps.append(step)
                    with (out / _ROWS).open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(step), ensure_ascii=False) + "\n")
                    shown.update(counter, description=f"{strategy}, {step.task}")
                    shown.advance(counter)
        report = summarize(steps, [task.name for task in spec.tasks], spec.strategies)
        write_json(out / _SUMMARY, asdict(report))
        write_page(report, out)
        return report


def summarize(steps: list[Step], tasks: list[str], strategies: list[Strategy]) -> ContinualReport:
    """Summarize finished runs, one row per strategy.

    Args:
        steps: Steps of all runs. Seeds that have not learned all tasks are excluded. If strategies
            have finished seeds in common, only these seeds are used.
        tasks: Names of the tasks in order.
        strategies: Strategies to report.
    """
    runs_of: dict[tuple[str, int], list[Step]] = defaultdict(list)
    for step in steps:
        runs_of[step.strategy, step.seed].append(step)
    finished = {
        strategy: {s: r for (n, s), r in runs_of.items() if n == strategy and len(r) == len(tasks)}
        for strategy in strategies
    }
    finished = {strategy: by_seed for strategy, by_seed in finished.items() if by_seed}
    shared = set.intersection(*map(set, finished.values())) if finished else set()
    rows = []
    for strategy, by_seed in finished.items():
        runs = [run for seed, run in by_seed.items() if seed in shared or not shared]
        found = [_matrix(run, tasks) for run in runs]
        last = len(tasks) - 1
        mean = np.mean(found, axis=0)
        rows.append(
            {
                "strategy": strategy,
                "seeds": len(runs),
                "overall": fmean(overall_performance(r, last) for r in found),
                "backward": fmean(backward_transfer(r) for r in found),
                "backward_by_tasks": fmean(backward_transfer(r, by_tasks=True) for r in found),
                "general": _general_change(runs),
                "abilities": _abilities(runs),
                "leakage": _leakage(runs),
                "valid": fmean(fmean(r[-1].valid.values()) for r in runs),
                "seconds": fmean(sum(step.seconds for step in r) for r in runs),
                "matrix": [
                    [None if i > t else round(float(mean[t, i]), 2) for i in range(len(tasks))]
                    for t in range(len(tasks))
                ],
                "warnings": _warnings(runs),
            }
        )
    return ContinualReport(
        tasks, [{k: round(v, 3) if isinstance(v, float) else v for k, v in r.items()} for r in rows]
    )


def _matrix(run: list[Step], tasks: list[str]) -> Any:
    """Return R of a run, shape (tasks, tasks); the unused upper triangle is 0."""
    found = np.zeros((len(tasks), len(tasks)))
    for step in run:
        for i, task in enumerate(tasks[: step.number + 1]):
            found[step.number, i] = step.scores[task]
    return found


def _general_change(runs: list[list[Step]]) -> float | None:
    """Return the change after the last task in percent; None without general data."""
    last = [run[-1] for run in runs]
    if any(math.isnan(step.base_nll) for step in last):
        return None
    return fmean(100 * (step.general_nll / step.base_nll - 1) for step in last)


def _abilities(runs: list[list[Step]]) -> dict[str, float]:
    """Return ΔG, ΔI and ΔS by ability, for those that were measured."""
    last = [run[-1].abilities for run in runs]
    return {
        ability: round(fmean(mean_change(found[ability]) for found in last), 3)
        for ability in last[0]
    }


def _leakage(runs: list[list[Step]]) -> float | None:
    """Return the leakage after the last task; None if it could not be determined."""
    last = [run[-1].leakage for run in runs]
    told = [share for share in last if share is not None]
    return fmean(told) if len(told) == len(last) else None


def _warnings(runs: list[list[Step]]) -> list[str]:
    """Return each warning of a task once, with the tasks after which it was given."""
    told: dict[tuple[str, str], dict[str, None]] = {}
    for step in (step for run in runs for step in run):
        for task, warnings in step.warnings.items():
            for warning in warnings:
                told.setdefault((task, warning), {})[step.task] = None
    return [
        f"{task}, scored after {', '.join(after)}: {warning}"
        for (task, warning), after in told.items()
    ]


def _settings(spec: ContinualSpec, learner: Learner) -> dict[str, Any]:
    """Return what a resumed run must share; strategies and seeds may be added."""
    data = CellData(ForgettingSpec(), "test", None)
    settings: dict[str, Any] = {
        "tasks": [task.name for task in spec.tasks],
        "general_items": spec.general_items,
        "abilities": {
            name: [task.name for task in tasks] for name, tasks in spec.abilities.items()
        },
    }
    for entry in (*spec.tasks, *chain.from_iterable(spec.abilities.values())):
        # The key of a cell with general data and a fixed draw, whatever the strategies and seeds.
        cell = cell_of(learner.recipe(entry, 0).model_copy(update={"method": "tell"}))
        settings[f"recipe and data of `{entry.name}`"] = cell_key(cell, data.all_hashes(cell))
    return settings


def _read(out: Path) -> list[Step]:
    """Read the rows of finished steps."""
    path = out / _ROWS
    if not path.exists():
        return []
    steps: list[Step] = []
    for line in jsonl_lines(path):
        try:
            step = Step(**json.loads(line))
        except (ValueError, TypeError):
            continue
        # The steps after a damaged row are learned again with it.
        if step.number == sum((s.strategy, s.seed) == (step.strategy, step.seed) for s in steps):
            steps.append(step)
    return steps


def _write(out: Path, steps: list[Step]) -> None:
    """Write the rows of finished steps, without incomplete rows."""
    rows = (json.dumps(asdict(step), ensure_ascii=False) for step in steps)
    write_text(out / _ROWS, "".join(f"{row}\n" for row in rows))
