"""Answers of all methods to the test items on which they differ most."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import pvariance
from typing import TYPE_CHECKING, Any

from telltune.evaluation.metrics import get_metric
from telltune.evaluation.score import PERPLEXITY
from telltune.study.report.series import label_series, main_points, series_of
from telltune.study.results import ANSWERS, ResultRow, read_answers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from telltune.study.statistics.summary import Point

_ITEMS = 3


@dataclass(frozen=True)
class Answer:
    """Answer of a method to an item.

    Attributes:
        right: Whether the answer is right; None if the metric is not binary.
    """

    label: str
    text: str
    score: float
    right: bool | None


@dataclass(frozen=True)
class Item:
    """A test item and its answers.

    Attributes:
        number: Position among the test items, from 1.
    """

    number: int
    prompt: str
    reference: str
    answers: list[Answer]


@dataclass(frozen=True)
class SideBySide:
    """Items of a task, answered at one size and seed.

    Attributes:
        size: Number of task tokens; None if no method uses task data.
        seed: Seed of the methods that use one.
    """

    task: str
    size: int | None
    seed: int
    metric: str
    items: list[Item]


def fullest_cells(rows: Sequence[ResultRow], points: Sequence[Point]) -> dict[str, list[ResultRow]]:
    """Return finished cells by task, at the smallest size and seed that most methods have.

    Methods without task data are included. Leverage ratios are limited to those that `main_points`
    keeps.
    """
    kept = {(point.task, series_of(point)) for point in main_points(points)}
    done = [r for r in rows if r.status == "done" and (r.task, series_of(r)) in kept]
    found = {}
    for task in dict.fromkeys(row.task for row in done):
        cells: dict[tuple[int, int], list[ResultRow]] = defaultdict(list)
        unsized = [row for row in done if row.task == task and row.size is None]
        for row in done:
            if row.task == task and row.size is not None:
                cells[row.size, row.seed].append(row)
        fullest = min(cells, key=lambda cell: (-len(cells[cell]), *cell), default=None)
        found[task] = unsized + (cells[fullest] if fullest else [])
    return found


def side_by_side(out: Path, rows: Sequence[ResultRow], points: Sequence[Point]) -> list[SideBySide]:
    """Choose the items of each task on which scores of methods vary most; the first of equals."""
    labels = label_series(points)
    found = []
    for task, cells in fullest_cells(rows, points).items():
        metric = cells[0].metric
        if metric == PERPLEXITY:
            # Perplexity does not use generated answers.
            continue
        told = {series_of(row): row for row in cells}
        answers = {labels[s]: read_answers(out / ANSWERS, told[s].key) for s in labels if s in told}
        scores = [
            [lines[i]["scores"][metric] for lines in answers.values()]
            for i in range(len(next(iter(answers.values()))))
        ]
        differing = sorted(range(len(scores)), key=lambda i: -pvariance(scores[i]))
        sized = [row for row in cells if row.size is not None] or cells
        items = [_item(i, answers, metric) for i in sorted(differing[:_ITEMS])]
        found.append(SideBySide(task, sized[0].size, sized[0].seed, metric, items))
    return found


def _item(number: int, answers: dict[str, list[dict[str, Any]]], metric: str) -> Item:
    binary = get_metric(metric).binary
    lines = {label: items[number] for label, items in answers.items()}
    first = next(iter(lines.values()))
    return Item(
        number + 1,
        first["prompt"],
        first["reference"],
        [
            Answer(label, line["prediction"], score, score > 0 if binary else None)
            for label, line in lines.items()
            for score in [line["scores"][metric]]
        ],
    )
