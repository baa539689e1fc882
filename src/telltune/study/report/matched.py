"""Means of the main methods over matched cells: the same tasks, sizes and seeds for all of them."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, NamedTuple

from telltune.evaluation.score import PERPLEXITY
from telltune.study.report.series import MAIN, Series, label_series, main_series, series_of
from telltune.study.statistics.resampling import Runs, mean_over_seeds
from telltune.study.statistics.significance import compare_runs, spread_over_seeds
from telltune.study.statistics.summary import REFERENCES, Point, scored_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from telltune.study.results import ResultRow

Blocks = dict[str, tuple[list[int], list[int]]]
"""Sizes and seeds by task; every size has every seed."""


class Estimate(NamedTuple):
    """A mean with its 95% interval; the bounds are NaN where the data do not determine them."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Standing:
    """Means of a method over the matched cells; every task counts the same.

    Attributes:
        score: Score; its interval covers test items and seeds.
        change: Change of the loss on general text against the base, in percent; its interval covers
            seeds. None if it was not measured.
        leakage: Share of general prompts answered in the task's format, over the tasks for which it
            is measured; None if there are none.
        seconds: Training time per cell.
    """

    series: Series
    label: str
    score: Estimate
    change: Estimate | None
    leakage: float | None
    seconds: float
    task_tokens: float
    general_tokens: float


@dataclass(frozen=True)
class Matched:
    """Main methods on matched cells.

    Attributes:
        cells: Number of cells of each method that trains on task data.
        main: Main method: TELL if it ran on the reference's cells.
        reference: Plain SFT if the study has it, else SFT with the anchor.
        others: Further main methods that ran on all of these cells, and the base.
        difference: Difference of the scores, main method minus reference.
        left_out: Labels of the main methods that did not run on all of these cells.
    """

    tasks: list[str]
    cells: int
    main: Standing
    reference: Standing
    others: list[Standing]
    difference: Estimate
    left_out: list[str]


def match_cells(
    out: Path, rows: Sequence[ResultRow], points: Sequence[Point], *, resamples: int = 10_000
) -> Matched | None:
    """Compare the main method with SFT on the cells that both ran; None if there are none.

    The cells are chosen by these two methods alone. A seed counts if it ran at all matched sizes of
    its task.
    """
    labels = label_series(points)
    cells: dict[Series, dict[tuple[str, int | None, int], ResultRow]] = {s: {} for s in labels}
    for row in rows:
        if row.status == "done" and row.metric != PERPLEXITY:
            cells[series_of(row)][row.task, row.size, row.seed] = row
    main = main_series(points)
    references = [main[name] for name in REFERENCES if name in main and main[name].name == name]
    known = dict.fromkeys([main[name] for name in ("tell", *MAIN) if name in main] + list(labels))
    pairs = (
        (series, reference, _blocks(cells[series].keys() & cells[reference].keys()))
        for reference in references
        for series in sorted(known, key=lambda series: series.name in REFERENCES)
        if series != reference
    )
    pair = next((pair for pair in pairs if pair[2]), None)
    if pair is None:
        return None
    series, reference, blocks = pair

    def found(each: Series) -> dict[str, dict[int, list[ResultRow]]] | None:
        """Return the rows of a method by task and seed; None if it lacks a cell."""
        its = cells[each]
        unsized = {task for task, size, _ in its if size is None}
        wanted: dict[str, dict[int, list[ResultRow]]] = {}
        for task, (sizes, seeds) in blocks.items():
            if task in unsized:
                wanted[task] = {key[2]: [its[key]] for key in its if key[:2] == (task, None)}
            elif all((task, size, seed) in its for size in sizes for seed in seeds):
                wanted[task] = {seed: [its[task, size, seed] for size in sizes] for seed in seeds}
            else:
                return None
        return wanted

    by_series = {s: found(s) for s in dict.fromkeys([series, reference, *main.values()])}
    runs = {
        each: {task: _runs(out, its) for task, its in by_task.items()}
        for each, by_task in by_series.items()
        if by_task
    }
    standings = {
        each: _standing(each, labels[each], by_series[each] or {}, its, resamples)
        for each, its in runs.items()
    }
    differences = [
        compare_runs(runs[series][task], runs[reference][task], resamples=resamples)
        for task in blocks
    ]
    return Matched(
        list(blocks),
        sum(len(sizes) * len(seeds) for sizes, seeds in blocks.values()),
        standings[series],
        standings[reference],
        [standing for each, standing in standings.items() if each not in (series, reference)],
        _mean_of_independent([Estimate(d.difference, d.low, d.high) for d in differences]),
        [labels[each] for each, by_task in by_series.items() if by_task is None],
    )


def _blocks(shared: set[tuple[str, int | None, int]]) -> Blocks:
    """Return the sizes of each task, those with most seeds first, and the seeds of all of them."""
    seeds: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for task, size, seed in sorted(shared, key=str):
        if size is not None:
            seeds[task][size].add(seed)
    blocks: Blocks = {}
    for task, by_size in seeds.items():
        common: set[int] = set()
        sizes: list[int] = []
        for size in sorted(by_size, key=lambda size: (-len(by_size[size]), size)):
            both = common & by_size[size] if sizes else by_size[size]
            if both:
                common, sizes = both, [*sizes, size]
        blocks[task] = (sorted(sizes), sorted(common))
    return blocks


def _runs(out: Path, by_seed: dict[int, list[ResultRow]]) -> Runs:
    """Return one run per seed, the mean over its sizes."""
    return [mean_over_seeds([scored_run(out, row) for row in rows]) for rows in by_seed.values()]


def _standing(
    series: Series,
    label: str,
    by_task: dict[str, dict[int, list[ResultRow]]],
    runs: dict[str, Runs],
    resamples: int,
) -> Standing:
    intervals = [spread_over_seeds(its, resamples=resamples).interval for its in runs.values()]
    tasks = [[row for rows in by_seed.values() for row in rows] for by_seed in by_task.values()]

    unsized = tasks[0][0].size is None

    def mean(kind: str, name: str) -> float:
        return fmean(fmean(getattr(row, kind)[name] for row in rows) for rows in tasks)

    def measured(*names: str) -> list[str]:
        """Return the tasks all of whose cells have these measurements."""
        return [
            t
            for t, its in zip(by_task, tasks, strict=True)
            if all(name in row.forgetting for row in its for name in names)
        ]

    losses = measured("general_nll_before", *[] if unsized else ["general_nll_after"])
    leakage = "leakage_before" if unsized else "leakage_after"
    leaks = [
        fmean(row.forgetting[leakage] for rows in by_task[task].values() for row in rows)
        for task in measured(leakage)
    ]
    change = None
    if len(losses) == len(tasks):
        changes = [Estimate(0.0, 0.0, 0.0)] if unsized else list(map(_change, by_task.values()))
        change = _mean_of_independent(changes)
    return Standing(
        series=series,
        label=label,
        score=_mean_of_independent([Estimate(i.score, i.low, i.high) for i in intervals]),
        change=change,
        leakage=fmean(leaks) if leaks else None,
        seconds=mean("seconds", "training"),
        task_tokens=mean("counts", "task_tokens"),
        general_tokens=mean("counts", "general_tokens"),
    )


def _change(by_seed: dict[int, list[ResultRow]]) -> Estimate:
    """Return the change of the general loss in percent, with Student's t over seeds."""
    changes = [
        100
        * fmean(
            r.forgetting["general_nll_after"] / r.forgetting["general_nll_before"] - 1 for r in rows
        )
        for rows in by_seed.values()
    ]
    if len(changes) == 1:
        return Estimate(changes[0], math.nan, math.nan)
    from scipy.stats import t

    half = t.ppf(0.975, len(changes) - 1) * stdev(changes) / len(changes) ** 0.5
    return Estimate(fmean(changes), fmean(changes) - half, fmean(changes) + half)


def _mean_of_independent(found: Sequence[Estimate]) -> Estimate:
    """Return the mean of estimates on different tasks; errors add up as independent ones do."""
    mean = fmean(one.mean for one in found)
    below = math.hypot(*(one.mean - one.low for one in found)) / len(found)
    above = math.hypot(*(one.high - one.mean for one in found)) / len(found)
    return Estimate(mean, mean - below, mean + above)
