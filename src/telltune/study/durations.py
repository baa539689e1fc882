"""Estimates of the time of cells from the rows of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from telltune.study.results import ResultRow
    from telltune.study.spec import Cell

__all__ = ["expected_seconds"]


def expected_seconds(cells: Sequence[Cell], rows: Iterable[ResultRow]) -> list[float]:
    """Estimate the seconds of each cell, accurately enough to start with the longest.

    The estimate interpolates over the trained tokens of finished cells of the same method and task,
    else of the same method, else of any method. Without finished cells it is a number of tokens.

    Args:
        cells: Cells to run.
        rows: Rows of the study so far.

    Returns:
        Expected seconds of each cell.
    """
    finished = [row for row in rows if row.status == "done"]
    return [_expected(cell, finished) for cell in cells]


def _expected(cell: Cell, finished: list[ResultRow]) -> float:
    alike = (
        [row for row in finished if (row.task, row.name) == (cell.task, cell.name)]
        or [row for row in finished if row.name == cell.name]
        or finished
    )
    if not alike:
        return _tokens(cell)
    alike = sorted(alike, key=_tokens)
    known = [sum(row.seconds.values()) for row in alike]
    return float(np.interp(_tokens(cell), [_tokens(row) for row in alike], known))


def _tokens(cell: Cell | ResultRow) -> float:
    """Return the approximate number of tokens that a cell trains on in one pass."""
    return (cell.size or 0) * (1 + (cell.leverage_ratio or 0.0))
