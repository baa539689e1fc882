"""From the rows of a study to what they say: scores over seeds, comparisons, data saved."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from telltune.errors import StorageError
from telltune.evaluation.metrics import get_metric, mean_of
from telltune.evaluation.score import PERPLEXITY
from telltune.study.emergence import find_jump
from telltune.study.item_changes import GeneralCurve, count_changes
from telltune.study.resampling import mean_over_seeds
from telltune.study.results import Results, read_answers
from telltune.study.saving import saving_factor
from telltune.study.significance import compare_runs, holm, spread_over_seeds
from telltune.study.spent import time_spent

if TYPE_CHECKING:
    from pathlib import Path

    from telltune.evaluation.registry import Scored
    from telltune.study.resampling import Runs
    from telltune.study.results import Row
    from telltune.study.spent import Spent

__all__ = [
    "REFERENCES",
    "Comparison",
    "Point",
    "SavedData",
    "Summary",
    "scored_run",
    "summarize",
]

REFERENCES = ("sft", "sft_anchor")
"""Methods that the others are held against: what one would do without telltune."""


class Group(NamedTuple):
    """What is one row in tables: its seeds are taken together."""

    task: str
    name: str
    size: int | None
    leverage_ratio: float | None


@dataclass(frozen=True)
class Point:
    """A method at a size, over its seeds.

    Attributes:
        task: The task's name.
        name: The method's name in tables.
        method: Its name in recipes.
        size: Task tokens that it might use; None where it uses none.
        leverage_ratio: That was asked for; None where the method does not mix.
        task_tokens: That it used, the mean over seeds.
        general_tokens: Likewise.
        metric: The headline metric.
        score: The mean over seeds.
        low: Of its interval.
        high: Of its interval.
        deviation: Between seeds; None for one.
        seeds: How many there are.
        items: Test items.
        seconds: Of training, the mean over seeds.
        forgetting: Means over seeds of what rows say of general examples.
        by_seed: The same by seed, so that methods can be held against each other on equal seeds.
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
    """A method against a reference, at one size of one task.

    Attributes:
        task: The task's name.
        size: Task tokens that both might use.
        name: The method's name in tables.
        leverage_ratio: The method's.
        against: The reference's name.
        difference: Of the mean scores; above 0 the method is better.
        low: Of its interval.
        high: Of its interval.
        p_value: Two-sided.
        p_adjusted: After Holm's correction over all methods held against this reference here.
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


@dataclass(frozen=True)
class SavedData:
    """The data-saving factor of a method at one size of one task; see `Saving`.

    Attributes:
        task: The task's name.
        size: Task tokens that the method might use.
        name: The method's name in tables.
        leverage_ratio: The method's.
        against: The reference, at all of its sizes.
        data_saving_factor: How many of the reference's task tokens one of the method's is worth.
        low: Of its interval; 0 where it may be less than the sizes tried can tell.
        high: Of its interval; None where it may be more.
        censored: ">", "<" or "".
        text: For people.
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
class Summary:
    """All that a study's rows say.

    Attributes:
        points: A method at a size each.
        comparisons: Against each of `REFERENCES` that the study has.
        saved: Likewise.
        general_curves: Where a method ran with four amounts of general data or more.
        failed: Cells without a score, and why.
        spent: Where the time went, and how much of it was overhead.
    """

    points: list[Point]
    comparisons: list[Comparison]
    saved: list[SavedData]
    general_curves: list[GeneralCurve]
    failed: list[dict[str, Any]]
    spent: Spent

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def summarize(out: Path, *, confidence: float = 0.95, resamples: int = 10_000) -> Summary:
    """Read a study's folder and work out what it says.

    Args:
        out: Of `tell study`.
        confidence: Of all intervals.
        resamples: Of all bootstraps.

    Raises:
        StorageError: There are no finished cells, or the answers of one are missing.
    """
    rows = Results(out).rows
    done = [row for row in rows if row.status == "done"]
    if not done:
        raise StorageError(f"{out}: no finished cell of a study is here; run `tell study` first.")
    groups: dict[Group, list[Row]] = defaultdict(list)
    for row in sorted(done, key=lambda row: row.seed):
        groups[Group(row.task, row.name, row.size, row.leverage_ratio)].append(row)
    runs: dict[Group, Runs] = {
        group: [scored_run(out, row) for row in found] for group, found in groups.items()
    }
    drawn = {"confidence": confidence, "resamples": resamples}
    return Summary(
        points=[_point(group, groups[group], runs[group], drawn) for group in groups],
        comparisons=_comparisons(groups, runs, drawn),
        saved=_saved(groups, runs, drawn),
        general_curves=_general_curves(groups, runs, drawn),
        failed=[
            {"task": row.task, "name": row.name, "size": row.size, "seed": row.seed}
            | {"reason": row.reason}
            for row in rows
            if row.status == "failed"
        ],
        spent=time_spent(rows),
    )


def scored_run(out: Path, row: Row) -> Scored:
    """The headline metric of a row's answers, in the form that can be resampled."""
    if row.metric == PERPLEXITY:
        return replace(mean_of(row.per_item[row.metric]), percent=False, lowest=1.0)
    items = read_answers(out, row)
    columns = ([item[key] for item in items] for key in ("prediction", "reference", "prompt"))
    return get_metric(row.metric)(*columns)


def _point(group: Group, rows: list[Row], runs: Runs, drawn: dict[str, Any]) -> Point:
    spread = spread_over_seeds(runs, **drawn)
    kinds = sorted({kind for row in rows for kind in row.forgetting})
    return Point(
        task=group.task,
        name=group.name,
        method=rows[0].method,
        size=group.size,
        leverage_ratio=group.leverage_ratio,
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
    groups: dict[Group, list[Row]], runs: dict[Group, Runs], drawn: dict[str, Any]
) -> list[Comparison]:
    families: dict[tuple[str, int, str], list[Comparison]] = defaultdict(list)
    for reference, method in _pairs(groups):
        binary = get_metric(groups[method][0].metric).binary
        seeds = _seeds(groups[method]) & _seeds(groups[reference])
        ours, theirs = (_of(seeds, groups[one], runs[one]) for one in (method, reference))
        found = compare_runs(ours, theirs, binary=binary, **drawn)
        assert method.size is not None  # by `_pairs`
        families[method.task, method.size, reference.name].append(
            Comparison(
                task=method.task,
                size=method.size,
                name=method.name,
                leverage_ratio=method.leverage_ratio,
                against=reference.name,
                difference=found.difference,
                low=found.low,
                high=found.high,
                p_value=found.p_value,
                p_adjusted=found.p_value,
            )
        )
    return [
        replace(one, p_adjusted=adjusted)
        for family in families.values()
        for one, adjusted in zip(family, holm([o.p_value for o in family]), strict=True)
    ]


def _saved(
    groups: dict[Group, list[Row]], runs: dict[Group, Runs], drawn: dict[str, Any]
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
        found = saving_factor(curve, _of(seeds, groups[method], runs[method]), tokens, **drawn)
        assert method.size is not None  # by `_pairs`
        saved.append(
            SavedData(
                method.task,
                method.size,
                method.name,
                method.leverage_ratio,
                reference.name,
                found.factor,
                found.low,
                # JSON has no infinity.
                found.high if found.high < float("inf") else None,
                found.censored,
                str(found),
            )
        )
    return saved


def _general_curves(
    groups: dict[Group, list[Row]], runs: dict[Group, Runs], drawn: dict[str, Any]
) -> list[GeneralCurve]:
    curves: dict[tuple[str, int, str], dict[float, Runs]] = defaultdict(dict)
    for group, rows in groups.items():
        if group.size is not None and group.leverage_ratio is not None:
            tokens = fmean(row.counts["general_tokens"] for row in rows)
            curves[group.task, group.size, group.name][tokens] = runs[group]
    return [_general_curve(key, curve, drawn) for key, curve in curves.items() if len(curve) >= 4]


def _general_curve(
    key: tuple[str, int, str], by_tokens: dict[float, Runs], drawn: dict[str, Any]
) -> GeneralCurve:
    _, size, _ = key
    found = find_jump(by_tokens, size, **drawn)
    means = [mean_over_seeds(by_tokens[tokens]) for tokens in sorted(by_tokens)]
    if not means[0].percent:
        return GeneralCurve(*key, found, None)
    items = count_changes(
        np.array([mean.per_item for mean in means]),
        sorted(by_tokens).index(found.before),
        rising=found.rises,
    )
    return GeneralCurve(*key, found, items)


def _seeds(rows: list[Row]) -> set[int]:
    return {row.seed for row in rows}


def _of(seeds: set[int], rows: list[Row], runs: Runs) -> Runs:
    """The runs of some seeds."""
    return [run for row, run in zip(rows, runs, strict=True) if row.seed in seeds]


def _task_tokens(seeds: set[int], rows: list[Row]) -> float:
    return fmean(row.counts["task_tokens"] for row in rows if row.seed in seeds)


def _pairs(groups: dict[Group, list[Row]]) -> list[tuple[Group, Group]]:
    """Each reference with each other method that ran at the same size of the same task and a seed.

    Perplexity, of which less is better, is shown but not compared.
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
