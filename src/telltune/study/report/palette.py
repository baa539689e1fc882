"""Color and shape of each method in all charts of a study's report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from telltune.html_report.drawing import COLOURS, Key
from telltune.study.report.series import label_series

if TYPE_CHECKING:
    from collections.abc import Sequence

    import altair as alt

    from telltune.html_report.drawing import Values
    from telltune.study.statistics.summary import Point

__all__ = ["Palette"]

# With 8 colors and 5 shapes, 40 methods differ in color or shape.
_SHAPES = ["circle", "square", "triangle-up", "diamond", "cross"]


class Palette:
    """Assignment of one color and one shape to each series of a report.

    Args:
        points: Points of the whole study.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self.labels = label_series(points)
        # A line whose points are leverage ratios is labeled with the bare method name.
        names = [point.name for point in points]
        self._domain = list(dict.fromkeys([*self.labels.values(), *names]))

    def color(self) -> alt.Color:
        """Return the color encoding of the field `method`."""
        import altair as alt

        return alt.Color("method:N").scale(domain=self._domain, range=COLOURS).legend(None)

    def shape(self) -> alt.Shape:
        """Return the shape encoding of the field `method`."""
        import altair as alt

        return alt.Shape("method:N").scale(domain=self._domain, range=_SHAPES).legend(None)

    def keys(self, values: Values, level: Values = ()) -> list[Key]:
        """Return the legend keys of a chart; methods only in `level` get a line key."""
        dots, lines = ({value["method"] for value in each} for each in (values, level))
        return [
            Key(
                label,
                COLOURS[i % len(COLOURS)],
                _SHAPES[i % len(_SHAPES)] if label in dots else "level",
            )
            for i, label in enumerate(self._domain)
            if label in dots | lines
        ]
