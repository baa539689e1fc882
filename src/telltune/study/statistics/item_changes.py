"""Changes of single test items as general tokens grow: at once, gradually or none.

A jump of the mean score can come from many items that change at one place, or from gradual changes
that add up. The counts distinguish these cases, and the report shows each item's scores.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from telltune.study.results import ANSWERS, ResultRow, read_answers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from telltune.evaluation.registry import Floats
    from telltune.study.statistics.emergence import Emergence

_HALF = 50.0
"""Half of the scale: an item is right if its mean score over seeds is above this."""


@dataclass(frozen=True, slots=True)
class ItemChanges:
    """Number of test items by how they change with general tokens; each is counted once.

    An item is right at a size if its mean score over seeds is above half of the scale. It changes
    *at once* if this score moves by more than half of the scale from one size to the next. With one
    seed and a right/wrong metric, every change is at once.

    Attributes:
        always: Items that are right at all sizes.
        never: Items that are right at no size.
        at_jump: Items that change once, at once, at the best-fitting jump and in its direction.
        elsewhere: Items that change likewise between two other sizes.
        gradually: Items that change once in the jump's direction, but in smaller steps.
        against: Items that change once in the opposite direction.
        wavering: Items that change more than once.
    """

    always: int
    never: int
    at_jump: int
    elsewhere: int
    gradually: int
    against: int
    wavering: int


@dataclass(frozen=True)
class GeneralCurve:
    """Score of a method as a function of general tokens, at one size of one task.

    Attributes:
        emergence: Shape of the curve, and place of the jump if there is one.
        items: Number of test items by how they change; None if the metric has no fixed scale.
    """

    task: str
    size: int
    name: str
    emergence: Emergence
    items: ItemChanges | None


def count_changes(scores: Floats, place: int, *, rising: bool) -> ItemChanges:
    """Count items by how they change.

    Args:
        scores: Shape (sizes, items). Means over seeds, 0 to 100, in order of general tokens.
        place: The best-fitting jump lies between sizes `place` and `place + 1`.
        rising: Whether the score rises at the jump.
    """
    right = scores > _HALF
    changes = np.diff(right.astype(int), axis=0)
    changed = np.abs(changes).sum(axis=0)
    where = np.abs(changes).argmax(axis=0)
    once = (changed == 1) & (changes == (1 if rising else -1)).any(axis=0)
    steps = np.abs(np.diff(scores, axis=0))
    at_once = once & (np.take_along_axis(steps, where[None], axis=0)[0] > _HALF)
    counts = {
        "always": right.all(axis=0),
        "never": ~right.any(axis=0),
        "at_jump": at_once & (where == place),
        "elsewhere": at_once & (where != place),
        "gradually": once & ~at_once,
        "against": (changed == 1) & ~once,
        "wavering": changed > 1,
    }
    return ItemChanges(**{name: int(items.sum()) for name, items in counts.items()})


def sort_items(scores: Floats) -> list[int]:
    """Sort items by the size from which they stay right.

    Items that are not right at the largest size come last. Ties are sorted by descending mean score
    over sizes.
    """
    staying = np.logical_and.accumulate((scores > _HALF)[::-1]).sum(axis=0)
    order: list[int] = np.lexsort((-scores.mean(axis=0), -staying)).tolist()
    return order


@dataclass(frozen=True)
class ItemCourses:
    """Scores of each item by general tokens, for a method at one size of one task.

    Attributes:
        general: The m amounts of general tokens, increasing.
        by_seed: Scores of all n items by seed, for each amount of general tokens.
    """

    curve: GeneralCurve
    general: list[float]
    by_seed: list[dict[int, list[float]]]
    prompts: list[str]

    @property
    def scores(self) -> Floats:
        """Mean scores over seeds, shape (m, n)."""
        return np.array([np.mean([*seeds.values()], axis=0) for seeds in self.by_seed])


def item_courses(
    out: Path, rows: Sequence[ResultRow], curves: Sequence[GeneralCurve]
) -> list[ItemCourses]:
    """Return the item scores behind the counts of a summary.

    Raises:
        StorageError: The answers of a cell are missing.
    """
    return [_courses(out, rows, curve) for curve in curves if curve.items is not None]


def _courses(out: Path, rows: Sequence[ResultRow], curve: GeneralCurve) -> ItemCourses:
    cells: dict[float | None, list[ResultRow]] = defaultdict(list)
    for row in rows:
        if row.status == "done" and (row.task, row.size, row.name) == (
            curve.task,
            curve.size,
            curve.name,
        ):
            cells[row.leverage_ratio].append(row)
    general = {
        float(np.mean([row.counts["general_tokens"] for row in found])): found
        for ratio, found in cells.items()
        if ratio is not None
    }
    sizes = sorted(general)
    return ItemCourses(
        curve,
        sizes,
        [
            {
                row.seed: row.per_item[row.metric]
                for row in sorted(general[size], key=lambda row: row.seed)
            }
            for size in sizes
        ],
        [answer["prompt"] for answer in read_answers(out / ANSWERS, general[sizes[0]][0].key)],
    )
