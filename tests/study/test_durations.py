"""Durations of cells are estimated from rows of the same method and their tokens."""

from __future__ import annotations

from telltune.recipe import recipe_from_dict
from telltune.study.durations import expected_seconds
from telltune.study.results import ResultRow
from telltune.study.spec import Cell

RECIPE = recipe_from_dict({"task": {"embedded": "answer_kind"}})


def cell(name: str, size: int | None, *, task: str = "routing", ratio: float = 0.0) -> Cell:
    return Cell(task, name, name, size, ratio, 1, RECIPE)


def row(name: str, size: int | None, seconds: float, *, task: str = "routing") -> ResultRow:
    spent = {"training": seconds - 1, "other": 1.0}
    return ResultRow("key", "done", task, name, name, size, None, 0, seconds=spent)


def test_with_no_finished_cell_what_trains_on_most_takes_longest() -> None:
    cells = [cell("sft", 300), cell("base", None), cell("tell", 300, ratio=4.0), cell("sft", 900)]
    assert expected_seconds(cells, []) == [300, 0, 1500, 900]


def test_a_finished_cell_of_the_same_kind_tells_and_between_two_it_is_between() -> None:
    rows = [row("sft", 1000, 90.0), row("sft", 500, 40.0), row("slow", 500, 900.0)]
    cells = [cell("sft", size) for size in (100, 500, 600, 5000)] + [cell("slow", 100)]
    assert expected_seconds(cells, rows) == [40, 40, 50, 90, 900]


def test_another_task_tells_where_the_same_has_no_row_and_any_method_where_none_has() -> None:
    rows = [row("sft", 500, 40.0), row("sft", 500, 70.0, task="other")]
    cells = [cell("sft", 500, task=task) for task in ("routing", "other")]
    assert expected_seconds(cells, rows) == [40, 70]
    assert expected_seconds([cell("sft", 500, task="new")], rows[:1]) == [40]
    assert expected_seconds([cell("tell", 500)], rows[:1]) == [40]


def test_a_cell_that_failed_tells_nothing() -> None:
    failed = ResultRow(
        "key", "failed", "routing", "sft", "sft", 500, None, 0, seconds={"other": 1.0}
    )
    assert expected_seconds([cell("sft", 500)], [failed]) == [500]
