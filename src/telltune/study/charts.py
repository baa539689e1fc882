"""The charts of a report, as Vega-Lite specifications.

Colours are CSS variables of the page, so that a chart follows it from light to dark and onto paper
without being drawn again. Width is that of the box that a chart stands in.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from telltune.study.formats import interval, loss, number, score, share, signed
from telltune.study.series import label_series, main_points, series_of
from telltune.study.side_by_side import fullest_cells
from telltune.study.verdict import tell_emergence

if TYPE_CHECKING:
    import altair as alt

    from telltune.study.results import Row
    from telltune.study.summary import Point, Summary

__all__ = [
    "Figure",
    "Key",
    "Palette",
    "curve_figures",
    "efficiency_figures",
    "emergence_figures",
    "forgetting_figures",
]

Values = Sequence[dict[str, Any]]

# 8 colours beside 5 shapes: 40 methods differ in one or the other.
_COLOURS = [f"var(--series-{i})" for i in range(8)]
_SHAPES = ["circle", "square", "triangle-up", "diamond", "cross"]

_TOLD = {
    "task": "task",
    "method": "method",
    "size": "size asked for",
    "tokens": "task tokens",
    "score": "score",
    "interval": "95% interval",
    "deviation": "SD over seeds",
    "seeds": "seeds",
    "general": "general tokens",
}
"""What hovering over a score tells, by field."""


class Key(NamedTuple):
    """What a legend says of a series; the shape of a level line is "level"."""

    label: str
    colour: str
    shape: str


@dataclass(frozen=True)
class Figure:
    """A chart.

    Attributes:
        title: Stands above it.
        spec: In Vega-Lite.
        keys: What its marks stand for.
        notes: What it comes to.
    """

    title: str
    spec: dict[str, Any]
    keys: list[Key]
    notes: list[str] = field(default_factory=list)


class Palette:
    """One colour and one shape a series, in all charts of a report.

    Args:
        points: Of the whole study.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self.labels = label_series(points)
        # Where leverage ratios are a line's points, not lines of their own, it has the bare name.
        names = [point.name for point in points]
        self._domain = list(dict.fromkeys([*self.labels.values(), *names]))

    def colour(self) -> alt.Color:
        """By the field `method`."""
        import altair as alt

        return alt.Color("method:N").scale(domain=self._domain, range=_COLOURS).legend(None)

    def shape(self) -> alt.Shape:
        """By the field `method`."""
        import altair as alt

        return alt.Shape("method:N").scale(domain=self._domain, range=_SHAPES).legend(None)

    def keys(self, values: Values, level: Values = ()) -> list[Key]:
        """Of the methods in the values of a chart, those of level lines apart."""
        dots, lines = ({value["method"] for value in each} for each in (values, level))
        return [
            Key(
                label,
                _COLOURS[i % len(_COLOURS)],
                _SHAPES[i % len(_SHAPES)] if label in dots else "level",
            )
            for i, label in enumerate(self._domain)
            if label in dots | lines
        ]


def efficiency_figures(points: Sequence[Point], palette: Palette) -> list[Figure]:
    """Score against task tokens, a figure a task; methods without task data are level lines."""
    import altair as alt

    figures = []
    for task in dict.fromkeys(point.task for point in points):
        shown = main_points([point for point in points if point.task == task])
        sized = [point for point in shown if point.size is not None]
        if not sized:
            continue
        level = [_value(p, palette.labels[series_of(p)]) for p in shown if p.size is None]
        values = _moved_apart([_value(p, palette.labels[series_of(p)]) for p in sized])
        smallest, largest = min(v["x"] for v in values), max(v["x"] for v in values)
        beside = max(1.15, (largest / smallest) ** 0.05)
        x = (
            alt.X("x:Q")
            .title("task tokens")
            .scale(type="log", domain=[smallest / beside, largest * beside], nice=False)
            .axis(values=sorted({p.size for p in sized if p.size}), format="~s")
        )
        chart = _scores(values, x, palette)
        if level:
            chart = _layers(_levels(level, palette), chart)
        figures.append(Figure(task, _spec(chart), palette.keys(values, level)))
    return figures


def emergence_figures(summary: Summary, palette: Palette) -> list[Figure]:
    """Score against general tokens, a figure a task and size where a method ran at several."""
    import altair as alt

    lines: dict[tuple[str, int], dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for point in summary.points:
        if point.size is not None and point.leverage_ratio is not None:
            lines[point.task, point.size][point.name].append(point)
    figures = []
    for (task, size), by_name in lines.items():
        found = [p for line in by_name.values() if len(line) > 1 for p in line]
        if not found:
            continue
        values = [_value(p, p.name) | {"x": p.general_tokens} for p in found]
        x = (
            alt.X("x:Q")
            .title("general tokens")
            # log(task + general tokens), on which no general data has a place too.
            .scale(type="symlog", constant=max(p.task_tokens for p in found), nice=False)
            .axis(values=sorted({p.general_tokens for p in found}), format=".2~s")
        )
        title = f"{task}, {number(size)} task tokens"
        notes = [
            tell_emergence(curve)
            for curve in summary.general_curves
            if (curve.task, curve.size) == (task, size)
        ]
        spec = _spec(_scores(values, x, palette))
        figures.append(Figure(title, spec, palette.keys(values), notes))
    return figures


def forgetting_figures(points: Sequence[Point], palette: Palette) -> list[Figure]:
    """What became of general loss and of answers without the anchor, a dot a point."""
    figures = []
    for kind, title, told in (
        ("general_nll", "General loss: change in percent", loss),
        ("leakage", "Leakage of the task's format: change in points", share),
    ):
        values = []
        for point in points:
            before = point.forgetting.get(f"{kind}_before")
            after = point.forgetting.get(f"{kind}_after")
            if before is None or after is None:
                continue
            change = 100 * (after - before) / (before if kind == "general_nll" else 1)
            values.append(
                _value(point, palette.labels[series_of(point)])
                | {"x": change, "before": told(before), "after": told(after)}
                | {"change": signed(change)}
            )
        if values:
            figures.append(Figure(title, _changes(values, palette), []))
    return figures


def curve_figures(rows: Sequence[Row], points: Sequence[Point], palette: Palette) -> list[Figure]:
    """Training loss by step and source, a figure a task, at the size and seed most methods have."""
    import altair as alt

    figures = []
    for task, cells in fullest_cells(rows, points).items():
        drawn = [row for row in cells if row.curve]
        values = [
            {"method": palette.labels[series_of(row)], "source": source, "step": step, "y": value}
            for row in drawn
            for source, losses in row.curve.items()
            if source != "step"
            for step, value in zip(row.curve["step"], losses, strict=True)
            if value is not None and math.isfinite(value)
        ]
        if not values:
            continue
        lines = _chart(values).encode(
            alt.X("step:Q").title("optimizer step"),
            alt.Y("y:Q").title("loss, nats a token").scale(zero=False),
            palette.colour(),
            alt.StrokeDash("source:N")
            .scale(domain=["task", "general"], range=[[1, 0], [4, 3]])
            .legend(None),
            tooltip=[
                *_tooltip({name: name for name in ("method", "source", "step")}),
                alt.Tooltip("y:Q").title("loss").format(".3f"),
            ],
        )
        dots = lines.mark_point(size=60, opacity=0, filled=True)
        chart = _layers(lines.mark_line(strokeWidth=1.75), dots)
        title = f"{task}, {number(drawn[0].size or 0)} task tokens, seed {drawn[0].seed}"
        figures.append(Figure(title, _spec(chart), palette.keys(values)))
    return figures


def _scores(values: Values, x: alt.X, palette: Palette) -> alt.LayerChart:
    """Points with their intervals, joined by a line a method."""
    import altair as alt

    base = _chart(values).encode(x, palette.colour())
    y = alt.Y("y:Q").title(values[0]["metric"]).scale(zero=False)
    return _layers(
        base.mark_rule(strokeWidth=1.25, opacity=0.6).encode(alt.Y("low:Q"), alt.Y2("high:Q")),
        base.mark_line(strokeWidth=2).encode(y),
        base.mark_point(filled=True, size=64, opacity=1).encode(
            y, palette.shape(), tooltip=_tooltip(_TOLD)
        ),
    )


def _levels(values: Values, palette: Palette) -> alt.LayerChart:
    """A line a method, as high all along."""
    import altair as alt

    rule = _chart(values).encode(alt.Y("y:Q"), palette.colour(), tooltip=_tooltip(_TOLD))
    return _layers(
        rule.mark_rule(strokeDash=[6, 4], strokeWidth=1.5),
        # Not seen, but wide enough to be pointed at.
        rule.mark_rule(strokeWidth=12, opacity=0),
    )


def _changes(values: Values, palette: Palette) -> dict[str, Any]:
    """A line of dots a method, around a rule at no change."""
    import altair as alt

    methods = [key.label for key in palette.keys(values)]
    names = ("task", "method", "tokens", "before", "after", "change")
    dots = _chart(values).encode(
        alt.X("x:Q").title(None),
        alt.Y("method:N").title(None).sort(methods).axis(labelLimit=150),
        palette.colour(),
        palette.shape(),
        tooltip=_tooltip({name: _TOLD.get(name, name) for name in names}),
    )
    rule = _chart([{"x": 0}]).mark_rule(color="var(--muted)").encode(alt.X("x:Q"))
    layers = _layers(rule, dots.mark_point(filled=True, size=64, opacity=0.8))
    return _spec(layers, height=30 + 26 * len(methods))


def _value(point: Point, label: str) -> dict[str, Any]:
    """A point as a chart reads it: numbers to draw, and text to tell."""
    return {
        "task": point.task,
        "method": label,
        "metric": point.metric,
        "size": "–" if point.size is None else number(point.size),
        "tokens": number(point.task_tokens),
        "score": score(point.score),
        "interval": interval(point.low, point.high),
        "deviation": score(point.deviation),
        "seeds": point.seeds,
        "general": number(point.general_tokens),
        "x": point.task_tokens,
        "y": point.score,
        # JSON has no NaN, which a bound is where the data cannot tell it.
        "low": None if math.isnan(point.low) else point.low,
        "high": None if math.isnan(point.high) else point.high,
    }


def _moved_apart(values: Values) -> Values:
    """Move the methods a little along x, each by the same, so that intervals do not hide others."""
    methods = list(dict.fromkeys(value["method"] for value in values))
    smallest, largest = min(v["x"] for v in values), max(v["x"] for v in values)
    step = max(1.01, (largest / smallest) ** 0.012)
    middle = (len(methods) - 1) / 2
    return [v | {"x": v["x"] * step ** (methods.index(v["method"]) - middle)} for v in values]


def _chart(values: Values) -> alt.Chart:
    import altair as alt

    return alt.Chart(alt.InlineData(values=values))


def _layers(*charts: alt.Chart | alt.LayerChart) -> alt.LayerChart:
    import altair as alt

    return alt.LayerChart(layer=list(charts))


def _tooltip(told: dict[str, str]) -> list[alt.Tooltip]:
    import altair as alt

    return [alt.Tooltip(f"{name}:N").title(title) for name, title in told.items()]


def _spec(chart: alt.LayerChart, height: int = 260) -> dict[str, Any]:
    """Without Altair's own look: the page has one for all charts."""
    spec: dict[str, Any] = chart.properties(width="container", height=height).to_dict()
    del spec["config"]
    return spec
