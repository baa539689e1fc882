"""TRACE's measures give known answers."""

from __future__ import annotations

import numpy as np
import pytest

from telltune.errors import DataError
from telltune.research.continual.scores import (
    backward_transfer,
    format_validity,
    overall_performance,
)

R = np.array([[80.0, 10.0, 0.0], [60.0, 70.0, 5.0], [50.0, 75.0, 90.0]])


def test_overall_performance_is_the_mean_of_what_was_learned() -> None:
    assert [overall_performance(R, t) for t in range(3)] == pytest.approx([80, 65, 71.6667])


def test_backward_transfer_is_the_change_since_a_task_was_learned() -> None:
    # 50 - 80 and 75 - 70.
    assert backward_transfer(R) == pytest.approx(-12.5)
    assert backward_transfer(R, by_tasks=True) == pytest.approx(-25 / 3)
    with pytest.raises(DataError, match="there is only one"):
        backward_transfer(R[:1, :1])


def test_an_answer_may_be_wrong_and_of_the_right_form() -> None:
    labels = ["ball", "box"] * 3
    assert format_validity(["box", " ball ", "a ball", ""], labels) == 0.5
    known = ['{"who": "x", "what": "y"}', '{"who": "z", "what": "y"}']
    answers = ['{"what": 1, "who": 2}', '{"where": 1}', "who", "[1]"]
    assert format_validity(answers, known) == 0.25
    assert format_validity(["some text", " "], ["free text", "and another"]) == 0.5
