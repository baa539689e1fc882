"""Series of a chart and their labels."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from telltune.study.statistics.summary import Point

__all__ = ["Series", "label_series", "main_points", "series_of"]


class Series(NamedTuple):
    """A method, by its name in tables, at one leverage ratio."""

    name: str
    leverage_ratio: float | None


class _Named(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def leverage_ratio(self) -> float | None: ...


def series_of(found: _Named) -> Series:
    """Return the series of a row, a point or a comparison."""
    return Series(found.name, found.leverage_ratio)


def label_series(found: Iterable[_Named]) -> dict[Series, str]:
    """Return the label of each series, in order of first appearance, then of leverage ratio.

    A label includes the leverage ratio only if the method ran at several.
    """
    known = list(dict.fromkeys(map(series_of, found)))
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
