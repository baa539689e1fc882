"""What is one line in a chart, and what it is called."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from telltune.study.summary import Point

__all__ = ["Series", "label_series", "main_points", "series_of"]


class Series(NamedTuple):
    """A method under its name in tables, at one leverage ratio."""

    name: str
    leverage_ratio: float | None


class _Named(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def leverage_ratio(self) -> float | None: ...


def series_of(found: _Named) -> Series:
    """Where a row, a point or a comparison belongs."""
    return Series(found.name, found.leverage_ratio)


def label_series(found: Iterable[_Named]) -> dict[Series, str]:
    """What to call each series: methods in the order in which they come, leverage ratios growing.

    The leverage ratio is part of it only where a method ran at several.
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
    """Of each method on each task, the points of the leverage ratio that ran at most sizes.

    A study of the leverage ratio adds many ratios at one size, whose curves would be single dots.
    Ratios that ran at as many sizes all stay; scores have no say in it.
    """
    sizes: dict[tuple[str, Series], int] = defaultdict(int)
    for point in points:
        sizes[point.task, series_of(point)] += 1
    most: dict[tuple[str, str], int] = defaultdict(int)
    for (task, series), count in sizes.items():
        most[task, series.name] = max(count, most[task, series.name])
    return [p for p in points if sizes[p.task, series_of(p)] == most[p.task, p.name]]
