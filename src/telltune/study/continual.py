"""Tasks learned one after another, and what becomes of the earlier ones (TRACE, arXiv 2310.06762).

A strategy learns the tasks in their order, and after each of them all that were learned are scored.
What it did is a row a strategy, seed and task in continual.jsonl, with the scores of every task:
the matrix R and all that follows from it can be traced to rows, and a killed run goes on with the
task where it was.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from telltune.errors import RecipeError
from telltune.evaluation.continual import backward_transfer, overall_performance
from telltune.methods.output_folder import alone
from telltune.recipe.part import Part
from telltune.storage import write_json, write_text
from telltune.study.continual_learner import STRATEGIES, Learner, Step, Strategy
from telltune.study.continual_page import ContinualReport, write_page
from telltune.study.spec import Tasks, read_spec
from telltune.training.progress import bar, phase

__all__ = ["ContinualReport", "ContinualSpec", "load_continual", "run_continual", "summarize"]

_ROWS = "continual.jsonl"
_SUMMARY = "summary.json"


class ContinualSpec(Part):
    """Tasks in their order, and ways to learn them.

    Example:
        ```yaml
        recipe: demo.yaml
        tasks: [medical_specialty, mention_json, restore_text]
        strategies: [sequential, replay, tell]
        seeds: [0, 1, 2]
        ```
    """

    recipe: dict[str, Any]
    """What all tasks share: recipe keys, or the name of a recipe beside this file."""
    tasks: Tasks = Field(min_length=2)
    """As in a study; learned in this order."""
    strategies: list[Strategy] = Field(default=list(STRATEGIES), min_length=1)
    """Ways to learn them."""
    seeds: list[NonNegativeInt] = Field(default=[0], min_length=1)
    """Each draws its own task data, orders and start."""
    general_items: PositiveInt = 50
    """Held-out general examples whose loss is taken before and after each task."""


def load_continual(path: str | Path) -> ContinualSpec:
    """Read an order of tasks.

    Raises:
        RecipeError: What is wrong with it, by key.
    """
    path = Path(path)
    spec = read_spec(path, ContinualSpec, "order")
    names = [task.name for task in spec.tasks]
    if len(set(names)) < len(names):
        raise RecipeError(f"{path}: two tasks have the same name; give each its own.")
    return spec


def run_continual(order: str | Path, out: str | Path, *, progress: bool = True) -> ContinualReport:
    """Learn the tasks in their order by each strategy, and score all that were learned after each.

    Called again on the same folder it goes on with the step where it was.

    Args:
        order: A YAML file; see `ContinualSpec`.
        out: Where continual.jsonl, the last adapters, summary.json and report.html go.
        progress: Show a bar.

    Raises:
        RecipeError: What is wrong with the order, or a task without test data or anchor.
        DataError: As `load_task`.
    """
    order, out = Path(order), Path(out)
    spec = load_continual(order)
    with alone(out):
        steps = _read(out)
        with phase("reading the tasks", shown=progress):
            learner = Learner(
                spec.recipe,
                spec.tasks,
                spec.general_items,
                out,
                name=str(order),
                folder=order.parent,
            )
            learner.check(spec.strategies, spec.seeds)
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
    """What finished runs come to, a row a strategy.

    Args:
        steps: Of runs; a seed that has not learned all tasks is left out, and so is one that only
            some of the strategies have learned, where they have others in common.
        tasks: In their order.
        strategies: Which to tell of.
    """
    by_run: dict[str, dict[int, list[Step]]] = {strategy: {} for strategy in strategies}
    for step in steps:
        by_run.get(step.strategy, {}).setdefault(step.seed, []).append(step)
    finished = {
        strategy: {seed: run for seed, run in by_seed.items() if len(run) == len(tasks)}
        for strategy, by_seed in by_run.items()
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
    return ContinualReport(tasks, [_rounded(row) for row in rows])


def _matrix(run: list[Step], tasks: list[str]) -> Any:
    """R of a run, (tasks, tasks); zeros above the diagonal, which nothing looks at."""
    found = np.zeros((len(tasks), len(tasks)))
    for step in run:
        for i, task in enumerate(tasks[: step.number + 1]):
            found[step.number, i] = step.scores[task]
    return found


def _general_change(runs: list[list[Step]]) -> float | None:
    """Percent, after the last task; None where no general data were asked about."""
    last = [run[-1] for run in runs]
    if any(math.isnan(step.base_nll) for step in last):
        return None
    return fmean(100 * (step.general_nll / step.base_nll - 1) for step in last)


def _leakage(runs: list[list[Step]]) -> float | None:
    """After the last task; None where it could not be told."""
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


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}


def _read(out: Path) -> list[Step]:
    """The rows of finished steps, but for what a kill cut short, which is removed."""
    path = out / _ROWS
    if not path.exists():
        return []
    steps = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            steps.append(Step(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    rows = (json.dumps(asdict(step), ensure_ascii=False) for step in steps)
    write_text(path, "".join(f"{row}\n" for row in rows))
    return steps
