"""Charts of training: losses and learned source weights by step."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from telltune.html_report.drawing import Figure, layers_of, spec_of, tooltip_of
from telltune.html_report.formats import number
from telltune.study.report.series import series_of
from telltune.study.report.side_by_side import fullest_cells
from telltune.training.log import WEIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence

    import altair as alt

    from telltune.study.report.palette import Palette
    from telltune.study.results import ResultRow
    from telltune.study.statistics.summary import Point


def training_figures(
    rows: Sequence[ResultRow], points: Sequence[Point], palette: Palette
) -> dict[str, list[Figure]]:
    """Plot training loss and learned source weights by step and source, by task.

    Each figure shows the size and seed that most methods have. Weights are left out if no method
    learns them.
    """
    import altair as alt

    dashes = alt.Scale(domain=["task", "general"], range=[[1, 0], [4, 3]])
    loss = ("loss", "loss, nats per token", ["task", "general"], dashes)
    learned = {name: None for row in rows for name in row.curve if name.startswith(WEIGHT)}
    weight = ("weight", "weight of the source", list(learned), None)
    figures: dict[str, list[Figure]] = defaultdict(list)
    for what in (loss, weight):
        for task, figure in _by_step(rows, points, palette, *what).items():
            figures[task].append(figure)
    return figures


def _by_step(
    rows: Sequence[ResultRow],
    points: Sequence[Point],
    palette: Palette,
    what: str,
    title: str,
    names: Sequence[str],
    dashes: alt.Scale | None,
) -> dict[str, Figure]:
    """Draw the curves of rows: colors are methods, dashes are sources."""
    import altair as alt

    figures = {}
    for task, cells in fullest_cells(rows, points).items():
        drawn = [row for row in cells if row.curve]
        # One value per curve, which the browser unfolds, keeps the page small.
        values = [
            {
                "method": palette.labels[series_of(row)],
                "source": source.removeprefix(WEIGHT),
                "step": [step for step, _ in known],
                "y": [value for _, value in known],
            }
            for row in drawn
            for source, course in row.curve.items()
            if source in names
            for known in [
                [
                    (step, value)
                    for step, value in zip(row.curve["step"], course, strict=True)
                    if value is not None and math.isfinite(value)
                ]
            ]
            if known
        ]
        if not values:
            continue
        dash = alt.StrokeDash("source:N").legend(None)
        lines = (
            palette.chart(values)
            .transform_flatten(["step", "y"])
            .encode(
                alt.X("step:Q").title("optimizer step"),
                alt.Y("y:Q").title(title).scale(zero=False),
                palette.color(),
                dash if dashes is None else dash.scale(dashes),
                tooltip=[
                    *tooltip_of({name: name for name in ("method", "source", "step")}),
                    alt.Tooltip("y:Q").title(what).format(".3f"),
                ],
            )
        )
        dots = lines.mark_point(size=60, opacity=0, filled=True)
        chart = layers_of(lines.mark_line(strokeWidth=1.75), dots)
        named = (
            f"{what.capitalize()}: {number(drawn[0].size or 0)} task tokens, seed {drawn[0].seed}"
        )
        figures[task] = Figure(named, spec_of(chart), palette.keys(values))
    return figures
