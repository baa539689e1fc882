"""Results as tables, which the command line prints and notebooks show as HTML."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

NUMBERS = {
    "score",
    "loss",
    "general loss",
    "drift",
    "leakage",
    "tokens",
    "task tokens",
    "general tokens",
    "seconds",
    "seeds",
    "unlabeled",
}
"""Columns of numbers, which are right-aligned."""

NOTHING = "–"
"""Text in place of an unknown value."""


def between(low: float | None, high: float | None, sign: str = "") -> str:
    """Format an interval, such as `48.0 to 60.3`, or with the sign "+" as `-0.3 to +4.2`."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return NOTHING
    return f"{low:{sign}.1f} to {high:{sign}.1f}"


@dataclass(frozen=True)
class ResultTable:
    """A result as a table.

    Attributes:
        heads: Names of the columns; "" each for a table without a head.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    warnings: Sequence[str] = ()

    def told(self) -> ResultTable:
        """Return the table without columns that are empty in every row."""
        kept = [i for i in range(len(self.heads)) if any(row[i] for row in self.rows)]
        rows = [[row[i] for i in kept] for row in self.rows]
        return ResultTable(self.title, [self.heads[i] for i in kept], rows, self.warnings)

    def html(self) -> str:
        """Return the table as HTML; all texts are escaped."""
        lines = [f"<p><b>{escape(self.title)}</b></p>", "<table>"]
        if any(self.heads) and self.rows:
            cells = "".join(f"<th>{escape(head)}</th>" for head in self.heads)
            lines.append(f"<thead><tr>{cells}</tr></thead>")
        sides = ["right" if head in NUMBERS else "left" for head in self.heads]
        for row in self.rows:
            cells = "".join(
                f'<td style="text-align: {side}">{escape(cell)}</td>'
                for side, cell in zip(sides, row, strict=True)
            )
            lines.append(f"<tr>{cells}</tr>")
        warned = [f"<p>Warning: {escape(warning)}</p>" for warning in self.warnings]
        return "\n".join([*lines, "</table>", *warned])


class InNotebooks(ABC):
    """A result that notebooks show as tables."""

    @abstractmethod
    def tables(self) -> list[ResultTable]:
        """Return the result as tables."""

    def _repr_html_(self) -> str:
        return "\n".join(table.html() for table in self.tables())
