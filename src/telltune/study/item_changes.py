"""What single test items do as general tokens grow: change at once, gradually, or not at all.

A mean score that jumps may be many items that change at one place, or a steady course of each that
only adds up to a jump. The counts tell one from the other, and the courses are there to be seen.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from telltune.study.results import read_answers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from telltune.evaluation.registry import Floats
    from telltune.study.emergence import Emergence
    from telltune.study.results import Row

__all__ = [
    "GeneralCurve",
    "ItemChanges",
    "ItemCourses",
    "count_changes",
    "item_courses",
    "sort_items",
]

_HALF = 50.0
"""Of the scale: an item is right if its mean score over seeds is above this."""


@dataclass(frozen=True, slots=True)
class ItemChanges:
    """Test items by what becomes of them with general tokens; each is counted once.

    An item is right at a size if its mean score over seeds is above half of the scale: most seeds
    have it right, or their answers are more right than wrong. It changes *at once* if that score
    moves by more than half of the scale from one size to the next; with one seed and a metric that
    is right or wrong, nothing can be seen to change otherwise.

    Attributes:
        always: Right at all sizes.
        never: Right at none.
        at_jump: Change once, at once, where the mean score jumps if it does, and as it moves there.
        elsewhere: Likewise between two other sizes.
        gradually: Change once and as the mean score moves, but in smaller steps.
        against: Change once, the other way.
        wavering: Change more than once.
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
    """How a method's score moves with general tokens, at one size of one task.

    Attributes:
        task: The task's name.
        size: Task tokens that the method might use.
        name: The method's name in tables.
        emergence: Whether there is a jump, and where.
        items: How many test items change there, or elsewhere; None where the metric has no scale.
    """

    task: str
    size: int
    name: str
    emergence: Emergence
    items: ItemChanges | None


def count_changes(scores: Floats, place: int, *, rising: bool) -> ItemChanges:
    """Sort items by how they change.

    Args:
        scores: Shape (sizes, items). Means over seeds, 0 to 100, by growing general tokens.
        place: The jump that fits best lies between sizes `place` and `place + 1`.
        rising: Whether it goes up.
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
    """Items in the order of the size from which on they are right and stay so.

    Those that are not right at the largest size come last; of equals, the one with the higher mean
    score over sizes first.

    Args:
        scores: Shape (sizes, items). As in `count_changes`.
    """
    staying = np.logical_and.accumulate((scores > _HALF)[::-1]).sum(axis=0)
    order: list[int] = np.lexsort((-scores.mean(axis=0), -staying)).tolist()
    return order


@dataclass(frozen=True)
class ItemCourses:
    """Each item's scores by general tokens, for a method at one size of one task.

    Attributes:
        curve: What the mean score does.
        general: General tokens of the sizes, growing; m of them.
        by_seed: For each of these the scores of all n items, by seed.
        prompts: Of the n items.
    """

    curve: GeneralCurve
    general: list[float]
    by_seed: list[dict[int, list[float]]]
    prompts: list[str]

    @property
    def scores(self) -> Floats:
        """Shape (m, n): means over seeds."""
        return np.array([np.mean([*seeds.values()], axis=0) for seeds in self.by_seed])


def item_courses(
    out: Path, rows: Sequence[Row], curves: Sequence[GeneralCurve]
) -> list[ItemCourses]:
    """The courses behind the counts of a summary.

    Args:
        out: The study's folder.
        rows: Of the study.
        curves: From its summary; those without counts of items are left out.

    Raises:
        StorageError: The answers of a cell are missing.
    """
    return [_courses(out, rows, curve) for curve in curves if curve.items is not None]


def _courses(out: Path, rows: Sequence[Row], curve: GeneralCurve) -> ItemCourses:
    cells: dict[float | None, list[Row]] = defaultdict(list)
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
        [answer["prompt"] for answer in read_answers(out, general[sizes[0]][0])],
    )
