"""Which colour and shape a method has in all charts of a study's report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from telltune.pages.drawing import COLOURS, Key
from telltune.study.series import label_series

if TYPE_CHECKING:
    from collections.abc import Sequence

    import altair as alt

    from telltune.pages.drawing import Values
    from telltune.study.summary import Point

__all__ = ["Palette"]

# 8 colours beside 5 shapes: 40 methods differ in one or the other.
_SHAPES = ["circle", "square", "triangle-up", "diamond", "cross"]


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

        return alt.Color("method:N").scale(domain=self._domain, range=COLOURS).legend(None)

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
                COLOURS[i % len(COLOURS)],
                _SHAPES[i % len(_SHAPES)] if label in dots else "level",
            )
            for i, label in enumerate(self._domain)
            if label in dots | lines
        ]
