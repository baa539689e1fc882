"""Color and shape of each method in all charts of a study's report, and the filter of methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from telltune.html_report.drawing import Key, Values, chart_of
from telltune.study.report.series import MAIN, label_series, main_series

if TYPE_CHECKING:
    from collections.abc import Sequence

    import altair as alt

    from telltune.study.statistics.summary import Point

# One color for each of `MAIN`; the last is of all other methods.
_COLORS = ["var(--text)", *(f"var(--series-{i})" for i in (1, 3, 0, 2, 5, 6, 7))]
_SHAPES = ["circle", "square", "triangle-up", "diamond", "cross"]

_FEW = 6
"""Maximum number of methods that are all shown at first."""


class Choice(NamedTuple):
    """A method in the filter of the page.

    Attributes:
        name: Its name in tables without a leverage ratio.
        shown: Whether it is shown at first.
    """

    key: Key
    name: str
    shown: bool


class Palette:
    """Fixed colors for the main methods and gray for the others, which differ in shape.

    Attributes:
        choices: All methods for the filter, the main ones first.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self.labels = label_series(points)
        main = main_series(points)
        self.main = [self.labels[series] for series in main.values()]
        numbers = {self.labels[series]: MAIN.index(method) for method, series in main.items()}
        # A line whose points are leverage ratios is labeled with the bare method name.
        named = {series.name: MAIN.index(method) for method, series in main.items()}
        known = dict.fromkeys([*self.labels.values(), *(point.name for point in points)])
        self._keys = {}
        for i, label in enumerate(known):
            number = numbers.get(label, named.get(label, -1))
            shape = _SHAPES[(number if number >= 0 else i) % len(_SHAPES)]
            self._keys[label] = Key(label, _COLORS[number], shape)
        self.choices = [
            Choice(self._keys[label], series.name, label in self.main)
            for series, label in sorted(
                self.labels.items(), key=lambda one: numbers.get(one[1], len(MAIN))
            )
        ]
        if len(self.choices) <= _FEW or not self.main:
            self.choices = [choice._replace(shown=True) for choice in self.choices]

    def is_main(self, label: str) -> bool:
        """Return whether a method is one of the main ones."""
        return label in self.main

    def chart(self, values: Values) -> alt.Chart:
        """Return a chart of the values whose `method` is chosen in the filter of the page."""
        return chart_of(values).transform_filter("indexof(shown, datum.method) >= 0")

    def color(self) -> alt.Color:
        """Return the color encoding of the field `method`."""
        import altair as alt

        colors = [key.color for key in self._keys.values()]
        return alt.Color("method:N").scale(domain=list(self._keys), range=colors).legend(None)

    def shape(self) -> alt.Shape:
        """Return the shape encoding of the field `method`."""
        import altair as alt

        shapes = [key.shape for key in self._keys.values()]
        return alt.Shape("method:N").scale(domain=list(self._keys), range=shapes).legend(None)

    def keys(self, values: Values, level: Values = ()) -> list[Key]:
        """Return the legend keys of a chart; methods only in `level` get a line key."""
        dots, lines = ({value["method"] for value in each} for each in (values, level))
        return [
            key if label in dots else key._replace(shape="level")
            for label, key in self._keys.items()
            if label in dots | lines
        ]
