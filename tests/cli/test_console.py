"""Tables fit a terminal of 80 columns, with nothing cut, and one reason is told once."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from telltune.cli.console import print_study, print_study_plan, print_table
from telltune.study.statistics.summary import (
    Comparison,
    Point,
    SavedData,
    Summary,
    TimeBreakdown,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    return lines


def test_names_are_folded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "m" * 90
    print_table("Scores", ("method", "score"), [(name, "1.0")])
    cells: Sequence[str] = [line.split("│")[1].strip() for line in lines_of(capsys) if "│" in line]
    assert "".join(cells) == name


def test_other_columns_are_folded_before_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    row = ("encoder_centroid", "67.4 (61.2 to 73.2)", "2.5 (1.2 to >4.0)", "14.0", "8 of 8")
    print_table("T", ("method", "score", "factor", "time", "runs"), [row])
    assert "encoder_centroid" in capsys.readouterr().out


def test_a_plan_tells_each_reason_once(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [{"cell": f"sft, seed {seed}", "reason": "no labels"} for seed in range(8)]
    problems.insert(3, {"cell": "tell, seed 0", "reason": "no general data"})
    values = {"cells": 9, "finished": 0, "trained_tokens": 0, "problems": problems}
    values["warnings"] = ["t: too large."]
    print_study_plan(values | {"training_seconds": None, "answering_seconds": None})
    assert capsys.readouterr().err.splitlines() == [
        "sft, seed 0, and 7 more, cannot run: no labels",
        "tell, seed 0 cannot run: no general data",
        "Warning: t: too large.",
    ]


def test_a_study_fits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    point = Point(
        task="medical_specialty",
        name="tell_stratified",
        method="tell_stratified",
        size=10_000,
        leverage_ratio=8.0,
        task_tokens=10_784,
        general_tokens=1_086_272,
        metric="accuracy",
        score=69.25,
        low=64.2,
        high=100.0,
        deviation=1.0,
        seeds=8,
        items=400,
        seconds=60,
        forgetting={},
    )
    cell = ("medical_specialty", 10_000, "tell_stratified", 8.0, "sft_anchor")
    summary = Summary(
        points=[point, replace(point, task="answer_kind", low=math.nan, high=math.nan)],
        comparisons=[Comparison(*cell, 12.3, 1.0, 20.0, 0.001, 0.002, 8)],
        saved=[SavedData(*cell, 2.1, 1.2, 3.4, "", "2.1 (1.2 to 3.4)")],
        general_curves=[],
        failed=[],
        spent=TimeBreakdown(0, 0, 0, 0, 0, 0),
    )
    print_study(summary)
    text = "\n".join(lines_of(capsys))
    assert text.count("medical_specialty") == 2, "the task is in the titles"
    assert "10,784 │  69.2 │ 64.2 to 100.0" in text
    assert "10,784 │  69.2 │ –  " in text
    assert "+12.3 (p 0.002)" in text
    assert "2.1 (1.2 to 3.4)" in text
    assert "comparison with sft_anchor" in text
    assert "*" not in text
    few = replace(summary.comparisons[0], seeds=3)
    print_study(replace(summary, comparisons=[few]))
    text = "\n".join(lines_of(capsys))
    assert "+12.3 (p 0.002) *" in text
    assert "\n* Compared only over the seeds that both methods have." in text
    against_sft = [replace(summary.comparisons[0], against="sft")]
    print_study(replace(summary, comparisons=against_sft, saved=[]))
    text = "\n".join(lines_of(capsys))
    assert "comparison with sft " in text
    assert "+12.3 (p 0.002)" in text
    points = [replace(point, name="tell", leverage_ratio=ratio) for ratio in (1.0, 2.0)]
    print_study(replace(summary, points=points, comparisons=[], saved=[]))
    text = "\n".join(lines_of(capsys))
    assert "comparison" not in text
    assert text.count("tell at ratio 1") == text.count("tell at ratio 2") == 2
