"""How long cells will take, as far as a study's rows tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from telltune.study.results import Row
    from telltune.study.spec import Cell

__all__ = ["expected_seconds"]


def expected_seconds(cells: Sequence[Cell], rows: Iterable[Row]) -> list[float]:
    """Seconds that each cell will take, good enough to begin with the longest.

    They lie between those of finished cells of the same method on the same task that train on less
    and on more, or on any task, or of any method. With no finished cell at all, tokens stand for
    seconds.

    Args:
        cells: To run.
        rows: Of the study so far.

    Returns:
        Of each cell.
    """
    finished = [row for row in rows if row.status == "done"]
    return [_expected(cell, finished) for cell in cells]


def _expected(cell: Cell, finished: list[Row]) -> float:
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


def _tokens(cell: Cell | Row) -> float:
    """About what it trains on in a pass."""
    return (cell.size or 0) * (1 + (cell.leverage_ratio or 0.0))
