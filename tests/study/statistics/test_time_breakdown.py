"""The time of each kind of work has known answers, and no work counts twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from telltune.study.results import ResultRow
from telltune.study.statistics.time_breakdown import time_spent


def row(key: str, status: str = "done", **seconds: float) -> ResultRow:
    name = f"method {key}"
    return ResultRow(key, status, "routing", name, name, 1000, None, 0, seconds=seconds)  # type: ignore[arg-type]


def test_overhead_is_what_is_neither_training_nor_asking() -> None:
    spent = time_spent(
        [
            row("a", training=0.0, answering=30.0, general=60.0, other=10.0),
            row("b", training=70.0, answering=20.0, general=9.0, other=1.0),
        ]
    )
    assert (spent.training, spent.answering, spent.general, spent.other) == (70, 50, 69, 11)
    assert spent.finished == 200
    assert spent.overhead == pytest.approx(0.055)


def test_failed_cells_are_no_overhead_but_told() -> None:
    done = row("a", training=8.0, answering=1.0, general=0.5, other=0.5)
    spent = time_spent([done, row("b", "failed", other=100.0)])
    assert spent.failed == 100
    assert spent.finished == 10
    assert spent.overhead == pytest.approx(0.05)


def test_work_under_two_names_was_done_once() -> None:
    done = row("a", training=8.0, answering=1.0, general=0.5, other=0.5)
    assert time_spent([done, replace(done, name="renamed")]) == time_spent([done])
