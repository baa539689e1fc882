"""A training log is read for a chart."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from telltune.training.log import loss_curve

if TYPE_CHECKING:
    from pathlib import Path


def test_every_step_stands_in_one_point(tmp_path: Path) -> None:
    rows = [
        {"step": n, "loss": 0, "loss_task": float(n)} | ({"loss_general": 2.0} if n % 2 else {})
        for n in range(1, 101)
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    curve = loss_curve(log, points=10)
    assert curve["step"] == list(range(10, 101, 10))
    assert curve["task"] == [pytest.approx(n - 4.5) for n in range(10, 101, 10)]
    assert curve["general"] == [2.0] * 10


def test_a_short_run_keeps_its_steps_and_a_source_that_is_not_there_no_line(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"step": 1, "loss": 1, "loss_task": 3.0}\n{"step": 2, "loss": 1, "loss_general": 1.0}\n'
    )
    assert loss_curve(log) == {"step": [1, 2], "task": [3.0, None], "general": [None, 1.0]}
    log.write_text('{"step": 1, "loss": 1, "loss_task": 3.0}\n')
    assert loss_curve(log) == {"step": [1], "task": [3.0]}
    log.write_text('{"step": ')
    assert loss_curve(log) == loss_curve(tmp_path / "none.jsonl") == {"step": []}


def test_learned_weights_have_lines_of_their_own(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 1, "loss_task": 3.0, "weight_task: a": 0.5}\n')
    assert loss_curve(log) == {"step": [1], "task": [3.0], "weight_task: a": [0.5]}
