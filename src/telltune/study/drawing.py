"""What all charts of a report share: colours and shapes, layers, what hovering tells.

Colours are CSS variables of the page, so that a chart follows it from light to dark and onto paper
without being drawn again. Width is that of the box that a chart stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from telltune.study.series import label_series

if TYPE_CHECKING:
    import altair as alt

    from telltune.study.summary import Point

__all__ = ["Figure", "Key", "Palette", "Values", "chart_of", "layers_of", "spec_of", "tooltip_of"]

Values = Sequence[dict[str, Any]]

# 8 colours beside 5 shapes: 40 methods differ in one or the other.
_COLOURS = [f"var(--series-{i})" for i in range(8)]
_SHAPES = ["circle", "square", "triangle-up", "diamond", "cross"]


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
