"""Parts of the comparison, in the order of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from speed_parts import answering, training

if TYPE_CHECKING:
    from collections.abc import Callable

    from speed_parts.rows import Rows
    from speed_parts.setting import Setting
    from speed_parts.table import Line

PARTS: dict[str, Callable[[Rows, Setting], list[Line]]] = {
    "gemm": training.gemm,
    "train": training.train,
    "llamafactory": training.llamafactory,
    "memory": training.memory,
    "evaluate": answering.evaluate,
    "stream": answering.stream,
    "cost": training.cost,
}


ROWS_OF = {"memory": "train"}
"""Parts that read the rows of another part."""
