"""What all charts of a report share: colours and shapes, layers, what hovering tells.

Colours are CSS variables of the page, so that a chart follows it from light to dark and onto paper
without being drawn again. Width is that of the box that a chart stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import altair as alt


__all__ = ["COLOURS", "Figure", "Key", "Values", "chart_of", "layers_of", "spec_of", "tooltip_of"]

Values = Sequence[dict[str, Any]]

COLOURS = [f"var(--series-{i})" for i in range(8)]
"""Of series, as the page's style has them."""


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


def chart_of(values: Values) -> alt.Chart:
    """Of values that stand in the page itself."""
    import altair as alt

    return alt.Chart(alt.InlineData(values=values))


def layers_of(*charts: alt.Chart | alt.LayerChart) -> alt.LayerChart:
    """The later ones above the earlier."""
    import altair as alt

    return alt.LayerChart(layer=list(charts))


def tooltip_of(told: dict[str, str]) -> list[alt.Tooltip]:
    """What hovering tells, by field: the name that people see."""
    import altair as alt

    return [alt.Tooltip(f"{name}:N").title(title) for name, title in told.items()]


def spec_of(chart: alt.LayerChart, height: int = 260) -> dict[str, Any]:
    """Without Altair's own look: the page has one for all charts."""
    spec: dict[str, Any] = chart.properties(width="container", height=height).to_dict()
    del spec["config"]
    return spec
