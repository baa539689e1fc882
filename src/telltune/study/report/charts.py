"""Charts of a report as Vega-Lite specifications."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Literal

from telltune.errors import one_line
from telltune.html_report.drawing import Figure, Values, chart_of, layers_of, spec_of, tooltip_of
from telltune.html_report.formats import interval, loss, number, score, share, signed
from telltune.result_table import NOTHING
from telltune.study.report.series import main_points, series_of
from telltune.study.report.verdict import tell_emergence, tell_items
from telltune.study.statistics.item_changes import ItemCourses, sort_items

if TYPE_CHECKING:
    from collections.abc import Sequence

    import altair as alt

    from telltune.study.report.matched import Matched
    from telltune.study.report.palette import Palette
    from telltune.study.statistics.summary import Point, Summary

# A leverage ratio goes on a line of its own: truncated labels would look the same.
_TWO_LINES: dict[str, Any] = {
    "labelLimit": 170,
    "labelExpr": "split(replace(datum.label, ' at ratio ', '\\nat ratio '), '\\n')",
    # Without this offset the first of two lines is vertically centered.
    "labelOffset": {
        "condition": {"test": "indexof(datum.label, ' at ratio ') > 0", "value": -6},
        "value": 0,
    },
}

_MOST_ITEMS = 200
_PROMPT_LENGTH = 120

_TOLD = {
    "task": "task",
    "method": "method",
    "size": "requested size",
    "tokens": "task tokens",
    "score": "score",
    "interval": "95% interval",
    "deviation": "SD over seeds",
    "seeds": "seeds",
    "general": "general tokens",
}
"""Tooltip labels of a score, by field."""


def headline_figure(matched: Matched | None, palette: Palette) -> Figure | None:
    """Plot score against change of the general loss, one labeled point per main method.

    None if there are no matched cells or the general loss was not measured.
    """
    import altair as alt

    if matched is None:
        return None
    values: list[dict[str, Any]] = [
        {
            "method": one.label,
            "score": score(one.score.mean),
            "interval": interval(one.score.low, one.score.high),
            "change": signed(one.change.mean),
            "seeds": interval(one.change.low, one.change.high),
            "leakage": NOTHING if one.leakage is None else share(one.leakage),
            "x": one.change.mean,
            "left": _known(one.change.low),
            "right": _known(one.change.high),
            "y": one.score.mean,
            "low": _known(one.score.low),
            "high": _known(one.score.high),
        }
        for one in (matched.main, matched.reference, *matched.others)
        if one.change is not None and one.task_tokens
    ]
    if not values:
        return None
    xs = [0, *(v[name] for v in values for name in ("x", "left", "right") if v[name] is not None)]
    beside = 0.05 * (max(xs) - min(xs)) or 1.0
    # There is room for names on the right.
    domain = [min(xs) - beside, max(xs) + 4 * beside]
    x = alt.X("x:Q").title("change of general loss against the base, %")
    x = x.scale(domain=domain, nice=False).axis(tickCount=6)
    y = alt.Y("y:Q").title("mean score").scale(zero=False)
    told = {name: _TOLD.get(name, name) for name in ("method", "score", "interval", "leakage")}
    told |= {"change": "change of general loss, %", "seeds": "95% interval over seeds"}
    # The base does not change. Its score may be far below, so it is written down instead.
    scores = [f", score {score(o.score.mean)}" for o in matched.others if not o.task_tokens]
    zero = chart_of([{"x": 0, "name": f"base{''.join(scores[:1])}"}])
    base = palette.chart(values).encode(palette.color())
    chart = layers_of(
        zero.mark_rule(color="var(--muted)", strokeDash=[2, 3]).encode(alt.X("x:Q")),
        zero.mark_text(color="var(--text)", align="left", dx=5, fontSize=12).encode(
            x, alt.Text("name:N"), y=alt.value(8)
        ),
        base.mark_rule(opacity=0.6).encode(x, alt.Y("low:Q"), alt.Y2("high:Q")),
        base.mark_rule(opacity=0.6).encode(alt.X("left:Q"), alt.X2("right:Q"), y),
        base.mark_point(filled=True, size=90, opacity=1).encode(
            x, y, palette.shape(), tooltip=tooltip_of(told)
        ),
        _names(_apart(values, values), x, palette, dy=-9),
    )
    title = f"Score and general loss, mean over {number(matched.cells)} matched cells"
    return Figure(title, spec_of(chart, 280), [])


def efficiency_figures(points: Sequence[Point], palette: Palette) -> dict[str, Figure]:
    """Plot score against task tokens, one figure per task.

    Methods without task data are horizontal lines. The main methods are labeled in the chart, and
    the others have legend keys.
    """
    import altair as alt

    figures = {}
    for task in dict.fromkeys(point.task for point in points):
        shown = main_points([point for point in points if point.task == task])
        sized = [point for point in shown if point.size is not None]
        if not sized:
            continue
        level = [_value(p, palette.labels[series_of(p)]) for p in shown if p.size is None]
        values = _moved_apart([_value(p, palette.labels[series_of(p)]) for p in sized], palette)
        smallest, largest = min(v["x"] for v in values), max(v["x"] for v in values)
        beside = max(1.15, (largest / smallest) ** 0.05)
        x = (
            alt.X("x:Q")
            .title("task tokens, log scale; points up to 2% aside")
            # There is room for names on the right.
            .scale(type="log", domain=[smallest / beside, largest * beside**7], nice=False)
            .axis(values=sorted({p.size for p in sized if p.size}), format=".3~s")
        )
        last = {v["method"]: v for v in sorted(values, key=lambda v: v["x"])}
        main = [v for v in [*values, *level] if palette.is_main(v["method"])]
        named = [
            v | {"x": largest * beside**7} for v in last.values() if palette.is_main(v["method"])
        ]
        names = _names(_apart(named, main or values), x, palette, align="right")
        chart = layers_of(_scores(values, x, palette), names)
        if level:
            beneath = [v | {"x": smallest / beside, "at": v["y"]} for v in level]
            chart = layers_of(_levels(level, palette), chart, _names(beneath, x, palette, dy=-8))
        keys = [key for key in palette.keys(values, level) if not palette.is_main(key.label)]
        figures[task] = Figure("Score against task tokens", spec_of(chart, 340), keys)
    return figures


def emergence_figures(
    summary: Summary, courses: Sequence[ItemCourses], palette: Palette
) -> dict[str, list[Figure]]:
    """Plot score against general tokens, by task: one figure per size.

    Only methods that ran with several amounts of general data are drawn. Each figure is followed by
    one figure per method with its single test items.
    """
    import altair as alt

    lines: dict[tuple[str, int], dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for point in summary.points:
        if point.size is not None and point.leverage_ratio is not None:
            lines[point.task, point.size][point.name].append(point)
    figures: dict[str, list[Figure]] = defaultdict(list)
    for (task, size), by_name in lines.items():
        found = [p for line in by_name.values() if len(line) > 1 for p in line]
        if not found:
            continue
        values = [_value(p, p.name) | {"x": p.general_tokens} for p in found]
        x = (
            alt.X("x:Q")
            .title("general tokens")
            # log(task + general tokens) can also show a point without general data.
            .scale(type="symlog", constant=size, nice=False)
            .axis(values=sorted({p.general_tokens for p in found}), format=".2~s")
        )
        title = f"{task}, {number(size)} task tokens"
        notes = [
            tell_emergence(curve)
            for curve in summary.general_curves
            if (curve.task, curve.size) == (task, size)
        ]
        spec = spec_of(_scores(values, x, palette))
        figures[task].append(Figure(title, spec, palette.keys(values), notes))
        figures[task] += [
            _item_figure(each)
            for each in courses
            if (each.curve.task, each.curve.size) == (task, size)
        ]
    return figures


def _item_figure(courses: ItemCourses) -> Figure:
    """Draw one column per amount of general data and one row per item, opaque at a score of 100."""
    import altair as alt

    means = courses.scores
    order = sort_items(means)
    # A row needs about 2 pixels to be visible, so long lists are thinned to every nth item.
    shown = order[:: math.ceil(len(order) / _MOST_ITEMS)]
    values = [
        {
            "rank": rank,
            "item": item + 1,
            "prompt": one_line(courses.prompts[item], _PROMPT_LENGTH),
            "general": courses.general,
            "score": means[:, item].round(1).tolist(),
            "seeds": [
                ", ".join(f"{seed}: {score(scores[item])}" for seed, scores in seeds.items())
                for seeds in courses.by_seed
            ],
        }
        for rank, item in enumerate(shown)
    ]
    x = (
        alt.X("general:O")
        .title("general tokens")
        .scale(paddingInner=0.04, paddingOuter=0)
        .axis(labelAngle=0, labelExpr="format(datum.value, '.2~s')", domain=False)
    )
    cells = (
        chart_of(values)
        .transform_flatten(["general", "score", "seeds"])
        .mark_rect(color="var(--accent)")
        .encode(
            x,
            alt.Y("rank:O").title("test items").scale(padding=0).axis(labels=False, grid=False),
            alt.Opacity("score:Q").scale(domain=[0, 100], range=[0.07, 1]).legend(None),
            tooltip=tooltip_of(
                {
                    "item": "test item",
                    "prompt": "prompt",
                    "general": "general tokens",
                    "score": "score",
                    "seeds": "by seed",
                }
            ),
        )
    )
    curve = courses.curve
    notes = [] if curve.items is None else [tell_items(curve.items, curve.emergence)]
    if len(shown) < len(order):
        notes.append(f"{len(shown)} of {len(order)} items are drawn, evenly spaced in this order.")
    title = f"{curve.name}, item by item: {curve.task}, {number(curve.size)} task tokens"
    # Whole pixels per item keep all rows equally high.
    height = len(shown) * max(2, 320 // len(shown))
    return Figure(title, spec_of(layers_of(cells), height), [], notes)


def forgetting_figures(points: Sequence[Point], palette: Palette) -> list[Figure]:
    """Plot the change of general loss, drift and leakage, one dot per point."""
    figures = []
    for kind, title, told in (
        ("general_nll", "General loss: change in percent", loss),
        ("drift", "Drift from the base's own answers: nats per token", loss),
        ("leakage", "Leakage of the task's format: change in points", share),
    ):
        values = []
        for point in points:
            before = point.forgetting.get(f"{kind}_before")
            after = point.forgetting.get(f"{kind}_after")
            if before is None or after is None:
                continue
            change = after - before
            if kind != "drift":
                change *= 100 / (before if kind == "general_nll" else 1)
            values.append(
                _value(point, palette.labels[series_of(point)])
                | {"x": change, "before": told(before), "after": told(after)}
                | {"change": signed(change)}
            )
        if values:
            figures.append(Figure(title, _changes(values, palette), []))
    return figures


def _scores(values: Values, x: alt.X, palette: Palette) -> alt.LayerChart:
    """Draw points with their intervals, joined by one line per method."""
    import altair as alt

    base = palette.chart(values).encode(x, palette.color())
    y = alt.Y("y:Q").title(values[0]["metric"]).scale(zero=False)
    return layers_of(
        base.mark_rule(strokeWidth=1.25, opacity=0.6).encode(alt.Y("low:Q"), alt.Y2("high:Q")),
        base.mark_line(strokeWidth=2).encode(y),
        base.mark_point(filled=True, size=64, opacity=1).encode(
            y, palette.shape(), tooltip=tooltip_of(_TOLD)
        ),
    )


def _levels(values: Values, palette: Palette) -> alt.LayerChart:
    """Draw one horizontal line per method."""
    import altair as alt

    rule = palette.chart(values).encode(alt.Y("y:Q"), palette.color(), tooltip=tooltip_of(_TOLD))
    return layers_of(
        rule.mark_rule(strokeDash=[6, 4], strokeWidth=1.5),
        # This invisible rule is wide enough to hover over.
        rule.mark_rule(strokeWidth=12, opacity=0),
    )


def _changes(values: Values, palette: Palette) -> dict[str, Any]:
    """Draw one row of dots per method, with a vertical rule at no change."""
    import altair as alt

    methods = [key.label for key in palette.keys(values)]
    names = ("task", "method", "tokens", "before", "after", "change")
    dots = palette.chart(values).encode(
        alt.X("x:Q").title(None),
        alt.Y("method:N").title(None).sort(methods).axis(**_TWO_LINES),
        palette.color(),
        palette.shape(),
        tooltip=tooltip_of({name: _TOLD.get(name, name) for name in names}),
    )
    rule = chart_of([{"x": 0}]).mark_rule(color="var(--muted)").encode(alt.X("x:Q"))
    layers = layers_of(rule, dots.mark_point(filled=True, size=64, opacity=0.8))
    # The page gives each chosen method a row of equal height.
    return spec_of(layers, 30 * len(methods)) | {"usermeta": {"rows": methods}}


def _value(point: Point, label: str) -> dict[str, Any]:
    """Return a point's values for a chart: numbers to draw and text for the tooltip."""
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
        "low": _known(point.low),
        "high": _known(point.high),
    }


def _known(bound: float) -> float | None:
    # JSON has no NaN, which marks a bound that the data do not determine.
    return None if math.isnan(bound) else bound


def _apart(values: Values, drawn: Values) -> Values:
    """Return the values with the height of each name, `at`, so that names do not overlap."""
    numbers = [v[name] for v in drawn for name in ("y", "low", "high") if v[name] is not None]
    gap = (max(numbers) - min(numbers)) / 14
    placed: list[dict[str, Any]] = []
    for value in sorted(values, key=lambda value: value["y"]):
        lowest = placed[-1]["at"] + gap if placed else -math.inf
        placed.append(value | {"at": max(value["y"], lowest)})
    return placed


def _names(
    values: Values,
    x: alt.X,
    palette: Palette,
    *,
    align: Literal["left", "right"] = "left",
    dy: int = 0,
) -> alt.Chart:
    """Write the names of the main methods beside the given points."""
    import altair as alt

    main = [value for value in values if palette.is_main(value["method"])]
    named = palette.chart(main).encode(x, alt.Y("at:Q"), palette.color(), alt.Text("method:N"))
    text: alt.Chart = named.mark_text(
        align=align, dx=4 if align == "left" else 0, dy=dy, fontSize=12
    )
    return text


def _moved_apart(values: Values, palette: Palette) -> Values:
    """Move the main methods aside, by at most 2%, so that intervals overlap less."""
    drawn = {value["method"] for value in values}
    methods = [method for method in palette.main if method in drawn]
    last = max(len(methods) - 1, 1)
    steps = {method: 2 * i / last - 1 for i, method in enumerate(methods)}
    return [v | {"x": v["x"] * 1.02 ** steps.get(v["method"], 0)} for v in values]
