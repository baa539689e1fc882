"""Summary of the rows of a study: scores over seeds, comparisons and data saving."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from telltune.errors import StorageError
from telltune.evaluation.metrics import get_metric
from telltune.evaluation.score import PERPLEXITY, perplexity
from telltune.study.results import ANSWERS, RESULTS, ResultRow, Results, read_answers
from telltune.study.scoring import FAILURES
from telltune.study.statistics.data_efficiency import saving_factor
from telltune.study.statistics.emergence import find_jump
from telltune.study.statistics.item_changes import GeneralCurve, count_changes
from telltune.study.statistics.resampling import Runs, mean_over_seeds
from telltune.study.statistics.significance import compare_runs, holm, spread_over_seeds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from telltune.evaluation.registry import Scored

REFERENCES = ("sft", "sft_anchor")
"""Reference methods of the comparisons: standard fine-tuning without general data."""


class Group(NamedTuple):
    """Key of one table row, which combines the seeds of a method."""

    task: str
    name: str
    size: int | None
    leverage_ratio: float | None


@dataclass(frozen=True)
class Point:
    """A method at one size, over its seeds.

    Attributes:
        name: Name of the method in tables.
        method: Name of the method in recipes.
        size: Maximum number of task tokens; None if the method uses no task data.
        leverage_ratio: Requested leverage ratio; None if the method does not mix.
        task_tokens: Number of task tokens used, averaged over seeds.
        general_tokens: Number of general tokens used, averaged over seeds.
        score: Mean score over seeds.
        deviation: Standard deviation between seeds; None for one seed.
        seeds: Number of seeds.
        seconds: Training time in seconds, averaged over seeds.
        forgetting: Forgetting measurements of the rows, averaged over seeds.
        by_seed: Forgetting measurements by seed, to compare methods on the same seeds.
    """

    task: str
    name: str
    method: str
    size: int | None
    leverage_ratio: float | None
    task_tokens: float
    general_tokens: float
    metric: str
    score: float
    low: float
    high: float
    deviation: float | None
    seeds: int
    items: int
    seconds: float
    forgetting: dict[str, float]
    by_seed: dict[int, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Comparison of a method with a reference at one size of one task.

    Attributes:
        size: Maximum number of task tokens of both.
        name: Name of the method in tables.
        against: Name of the reference.
        difference: Difference of the mean scores over `seeds`; positive if the method is better.
        seeds: Number of seeds that both have.
        p_adjusted: Holm-adjusted p-value over all methods compared with this reference at this size
            of this task.
    """

    task: str
    size: int
    name: str
    leverage_ratio: float | None
    against: str
    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    seeds: int


@dataclass(frozen=True)
class SavedData:
    """The data-saving factor of a method at one size of one task; see `Saving`.

    Attributes:
        size: Maximum number of task tokens of the method.
        name: Name of the method in tables.
        against: Name of the reference, whose sizes form the curve.
        data_saving_factor: Task tokens of the reference needed to match one of the method.
        low: Lower bound of the interval; 0 if it may lie below the sizes that were tried.
        high: Upper bound of the interval; None if it may lie above the sizes that were tried.
        censored: ">", "<" or ""; see `Saving.censored`.
        text: Factor with its interval, for display.
    """

    task: str
    size: int
    name: str
    leverage_ratio: float | None
    against: str
    data_saving_factor: float
    low: float
    high: float | None
    censored: str
    text: str


@dataclass(frozen=True)
class TimeBreakdown:
    """Time breakdown of a study, in seconds.

    The time of a cell is measured from its start to its row. Work with rows under two names counts
    once. Time between cells (reading the study and its data, writing rows and this summary) and
    unfinished work of killed processes are not included.

    Attributes:
        training: Optimizer steps from first to last, including logging and checkpoints.
        answering: Answers to the test items: reading prompts and decoding answers.
        general: Measurements of forgetting and leakage, before and after training.
        other: Rest of finished cells: loading the base (once per process), tokenizing, sampling the
            model's own responses (once for all cells), creating and saving adapters, scoring with
            the bootstrap, and the perplexity if it is a metric.
        failed: Total time of cells without a score; not part of the overhead.
        overhead: `other` as a share of the time of finished cells.
    """

    training: float
    answering: float
    general: float
    other: float
    failed: float
    overhead: float

    @property
    def finished(self) -> float:
        """Total time of finished cells."""
        return self.training + self.answering + self.general + self.other


@dataclass(frozen=True)
class Summary:
    """Summary of a study.

    Attributes:
        points: One point per task, method, size and leverage ratio.
        comparisons: Comparisons with each of `REFERENCES` in the study.
        saved: Data-saving factors against each of `REFERENCES` in the study.
        general_curves: Curves of methods that ran with at least four amounts of general data.
        left_out: Number of rows in the folder of cells that the study no longer has.
    """

    points: list[Point]
    comparisons: list[Comparison]
    saved: list[SavedData]
    general_curves: list[GeneralCurve]
    failed: list[dict[str, Any]]
    spent: TimeBreakdown
    left_out: int = 0

    def most_seeds(self, comparison: Comparison) -> int:
        """Return the number of seeds of the scores; of the two methods, the larger one."""
        one = comparison
        return max(
            p.seeds
            for p in self.points
            if (p.task, p.size) == (one.task, one.size)
            # References have no leverage ratio.
            and (p.name, p.leverage_ratio) in {(one.name, one.leverage_ratio), (one.against, None)}
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return asdict(self)


def summarize(out: Path, *, resamples: int = 10_000) -> Summary:
    """Read the folder of a study and summarize it.

    Raises:
        StorageError: There are no finished cells, or the answers of a cell are missing.
    """
    results = Results(out)
    rows = results.of_study
    done = [row for row in rows if row.status == "done"]
    if not done and rows:
        reasons = "; ".join(dict.fromkeys(row.reason.rstrip(".") for row in rows))
        raise StorageError(
            f"{out}: all {len(rows)} cells of the study failed: {reasons}; see {out / FAILURES}, "
            "and run `tell study` again to retry."
        )
    if not done:
        raise StorageError(f"{out}: no finished cell of a study found; run `tell study` first.")
    groups: dict[Group, list[ResultRow]] = defaultdict(list)
    for row in sorted(done, key=lambda row: row.seed):
        groups[Group(row.task, row.name, row.size, row.leverage_ratio)].append(row)
    runs: dict[Group, Runs] = {
        group: [scored_run(out, row) for row in found] for group, found in groups.items()
    }
    return Summary(
        points=[_point(group, groups[group], runs[group], resamples) for group in groups],
        comparisons=_comparisons(groups, runs, resamples),
        saved=_saved(groups, runs, resamples),
        general_curves=_general_curves(groups, runs, resamples),
        failed=[
            {name: getattr(row, name) for name in ("task", "name", "size", "seed", "reason")}
            for row in rows
            if row.status == "failed"
        ],
        spent=time_spent(rows),
        left_out=len(results.rows) - len(rows),
    )


def time_spent(rows: Sequence[ResultRow]) -> TimeBreakdown:
    """Add up the time of a study's cells."""
    work = {row.key: row for row in rows}.values()
    done = [row.seconds for row in work if row.status == "done"]
    phases = ("training", "answering", "general", "other")
    by_phase = {phase: sum(seconds[phase] for seconds in done) for phase in phases}
    return TimeBreakdown(
        **by_phase,
        failed=sum(sum(row.seconds.values()) for row in work if row.status == "failed"),
        overhead=by_phase["other"] / sum(by_phase.values()),
    )


def scored_run(out: Path, row: ResultRow) -> Scored:
    """Return the headline metric of a row's answers in a form for resampling."""
    if row.metric == PERPLEXITY:
        if not row.reference_tokens:
            raise StorageError(
                f"{out / RESULTS}: the row {row.key} has a perplexity without `reference_tokens`; "
                "remove the row and run again."
            )
        return perplexity(row.per_item[row.metric], row.reference_tokens)
    return scored_answers(out / ANSWERS, row.key, row.metric)


def scored_answers(folder: Path, key: str, metric: str) -> Scored:
    """Return a metric of a cell's answers, read from a folder, in a form for resampling."""
    items = read_answers(folder, key)
    columns = ([item[key] for item in items] for key in ("prediction", "reference", "prompt"))
    return get_metric(metric)(*columns)


def _point(group: Group, rows: list[ResultRow], runs: Runs, resamples: int) -> Point:
    spread = spread_over_seeds(runs, resamples=resamples)
    kinds = sorted({kind for row in rows for kind in row.forgetting})
    return Point(
        **group._asdict(),
        method=rows[0].method,
        task_tokens=fmean(row.counts["task_tokens"] for row in rows),
        general_tokens=fmean(row.counts["general_tokens"] for row in rows),
        metric=rows[0].metric,
        score=spread.interval.score,
        low=spread.interval.low,
        high=spread.interval.high,
        deviation=None if spread.seeds == 1 else spread.deviation,
        seeds=spread.seeds,
        items=len(runs[0]),
        seconds=fmean(row.seconds["training"] for row in rows),
        forgetting={
            kind: fmean(row.forgetting[kind] for row in rows if kind in row.forgetting)
            for kind in kinds
        },
        by_seed={row.seed: row.forgetting for row in rows if row.forgetting},
    )


def _comparisons(
    groups: dict[Group, list[ResultRow]], runs: dict[Group, Runs], resamples: int
) -> list[Comparison]:
    families: dict[tuple[str, int | None, str], list[Comparison]] = defaultdict(list)
    for reference, method in _pairs(groups):
        binary = get_metric(groups[method][0].metric).binary
        seeds = _seeds(groups[method]) & _seeds(groups[reference])
        ours, theirs = (_of(seeds, groups[one], runs[one]) for one in (method, reference))
        found = compare_runs(ours, theirs, binary=binary, resamples=resamples)
        against, p = reference.name, found.p_value
        families[method.task, method.size, against].append(
            Comparison(
                **method._asdict(), **asdict(found), against=against, p_adjusted=p, seeds=len(seeds)
            )
        )
    return [
        replace(one, p_adjusted=adjusted)
        for family in families.values()
        for one, adjusted in zip(family, holm([o.p_value for o in family]), strict=True)
    ]


def _saved(
    groups: dict[Group, list[ResultRow]], runs: dict[Group, Runs], resamples: int
) -> list[SavedData]:
    saved = []
    for reference, method in _pairs(groups):
        seeds = _seeds(groups[method]) & _seeds(groups[reference])
        curve = {
            _task_tokens(seeds, groups[other]): _of(seeds, groups[other], runs[other])
            for other in groups
            if (other.task, other.name) == (reference.task, reference.name)
            and seeds & _seeds(groups[other])
        }
        tokens = _task_tokens(seeds, groups[method])
        found = saving_factor(
            curve, _of(seeds, groups[method], runs[method]), tokens, resamples=resamples
        )
        saved.append(
            SavedData(
                **method._asdict(),
                against=reference.name,
                data_saving_factor=found.factor,
                low=found.low,
                # JSON has no infinity.
                high=found.high if found.high < float("inf") else None,
                censored=found.censored,
                text=str(found),
            )
        )
    return saved


def _general_curves(
    groups: dict[Group, list[ResultRow]], runs: dict[Group, Runs], resamples: int
) -> list[GeneralCurve]:
    curves: dict[tuple[str, int, str], dict[float, Runs]] = defaultdict(dict)
    for group, rows in groups.items():
        if group.size is not None and group.leverage_ratio is not None:
            tokens = fmean(row.counts["general_tokens"] for row in rows)
            curves[group.task, group.size, group.name][tokens] = runs[group]
    return [
        _general_curve(key, curve, resamples) for key, curve in curves.items() if len(curve) >= 4
    ]


def _general_curve(
    key: tuple[str, int, str], by_tokens: dict[float, Runs], resamples: int
) -> GeneralCurve:
    _, size, _ = key
    found = find_jump(by_tokens, size, resamples=resamples)
    means = [mean_over_seeds(by_tokens[tokens]) for tokens in sorted(by_tokens)]
    if not means[0].percent:
        return GeneralCurve(*key, found, None)
    items = count_changes(
        np.array([mean.per_item for mean in means]),
        sorted(by_tokens).index(found.before),
        rising=found.rises,
    )
    return GeneralCurve(*key, found, items)


def _seeds(rows: list[ResultRow]) -> set[int]:
    return {row.seed for row in rows}


def _of(seeds: set[int], rows: list[ResultRow], runs: Runs) -> Runs:
    """Return the runs of the given seeds."""
    return [run for row, run in zip(rows, runs, strict=True) if row.seed in seeds]


def _task_tokens(seeds: set[int], rows: list[ResultRow]) -> float:
    return fmean(row.counts["task_tokens"] for row in rows if row.seed in seeds)


def _pairs(groups: dict[Group, list[ResultRow]]) -> list[tuple[Group, Group]]:
    """Pair each reference with each method at the same task and size that shares a seed.

    Perplexity is shown but not compared, because lower is better.
    """
    return [
        (reference, method)
        for reference in groups
        if groups[reference][0].method in REFERENCES and reference.name in REFERENCES
        for method in groups
        if method != reference
        and (method.task, method.size) == (reference.task, reference.size)
        and method.size is not None
        and _seeds(groups[method]) & _seeds(groups[reference])
        and groups[method][0].metric != PERPLEXITY
    ]
