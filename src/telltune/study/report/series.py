"""Series of a chart and their labels."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from telltune.recipe.schema import MixtureSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from telltune.study.results import ResultRow
    from telltune.study.statistics.summary import Comparison, Point, SavedData

MAIN = (
    "base",
    "sft",
    "sft_anchor",
    "tell",
    "tell_product",
    "tell_pseudo_label",
    "sft_pseudo_label",
)
"""Main methods of a report; the others are in the background until a reader chooses them."""


class Series(NamedTuple):
    """A method, by its name in tables, at one leverage ratio."""

    name: str
    leverage_ratio: float | None


def series_of(found: ResultRow | Point | Comparison | SavedData) -> Series:
    """Return the series of a row, a point or a comparison."""
    return Series(found.name, found.leverage_ratio)


def label_series(points: Iterable[Point]) -> dict[Series, str]:
    """Return the label of each series, in order of first appearance, then of leverage ratio.

    A label includes the leverage ratio only if the method ran at several.
    """
    known = list(dict.fromkeys(map(series_of, points)))
    names = [series.name for series in known]
    known.sort(key=lambda series: (names.index(series.name), series.leverage_ratio or 0))
    return {
        series: series.name
        if names.count(series.name) == 1
        else f"{series.name} at ratio {series.leverage_ratio:g}"
        for series in known
    }


def main_points(points: Sequence[Point]) -> list[Point]:
    """Keep, for each method and task, the points of the leverage ratio that ran at most sizes.

    A study of the leverage ratio adds many ratios at one size, whose curves would be single dots.
    All ratios with the largest number of sizes are kept, regardless of their scores.
    """
    sizes: dict[tuple[str, Series], int] = defaultdict(int)
    for point in points:
        sizes[point.task, series_of(point)] += 1
    most: dict[tuple[str, str], int] = defaultdict(int)
    for (task, series), count in sizes.items():
        most[task, series.name] = max(count, most[task, series.name])
    return [p for p in points if sizes[p.task, series_of(p)] == most[p.task, p.name]]


def main_series(points: Sequence[Point]) -> dict[str, Series]:
    """Return the series of each of `MAIN` in the study, by method.

    A method under several names is the one with its own name. Of several leverage ratios it is the
    one with most sizes and tasks, of equals the one nearest to the default, whatever the scores
    are.
    """
    usual = MixtureSpec().leverage_ratio
    cells: dict[str, dict[Series, int]] = {}
    for point in points:
        if point.method in MAIN:
            its = cells.setdefault(point.method, {})
            its[series_of(point)] = its.get(series_of(point), 0) + 1
    return {
        method: min(
            its,
            key=lambda s: (s.name != method, -its[s], abs((s.leverage_ratio or 0) - usual)),
        )
        for method in MAIN
        for its in [cells.get(method, {})]
        if its
    }
