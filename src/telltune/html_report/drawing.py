"""Common parts of all charts of a report: colors, legends, layers and tooltips.

Colors are CSS variables of the page, so that a chart follows its light, dark and print styles
without being drawn again. A chart is as wide as its container.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import altair as alt


Values = Sequence[dict[str, Any]]

COLORS = [f"var(--series-{i})" for i in range(8)]
"""Colors of series, as CSS variables of the page's style."""


class Key(NamedTuple):
    """Legend entry of a series; a horizontal line has the shape "level"."""

    label: str
    color: str
    shape: str


@dataclass(frozen=True)
class Figure:
    """A chart with its title and text."""

    title: str
    spec: dict[str, Any]
    keys: list[Key]
    notes: list[str] = field(default_factory=list)


def chart_of(values: Values) -> alt.Chart:
    """Return a chart whose values are embedded in the page."""
    import altair as alt

    return alt.Chart(alt.InlineData(values=values))


def layers_of(*charts: alt.Chart | alt.LayerChart) -> alt.LayerChart:
    """Return a layered chart, with later charts above earlier ones."""
    import altair as alt

    return alt.LayerChart(layer=list(charts))


def tooltip_of(told: dict[str, str]) -> list[alt.Tooltip]:
    """Return tooltips of fields, each with its title."""
    import altair as alt

    return [alt.Tooltip(f"{name}:N").title(title) for name, title in told.items()]


def spec_of(chart: alt.LayerChart, height: int = 260) -> dict[str, Any]:
    """Return the Vega-Lite specification without Altair's theme, since the page has its own."""
    spec: dict[str, Any] = chart.properties(width="container", height=height).to_dict()
    del spec["config"]
    return spec
