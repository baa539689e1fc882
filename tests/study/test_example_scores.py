"""Scores of examples by PVI, trained for real on the tiny model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from telltune.errors import DataError, RecipeError, StorageError
from telltune.study import example_scores as module
from telltune.study.example_scores import SCORES, score_by_pvi

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WRONG = {4, 13, 21}


@pytest.fixture
def planted(
    toy_recipe: dict[str, Any], tmp_path: Path, write_jsonl: Callable[..., Path]
) -> dict[str, Any]:
    """The toy task with three wrong labels among 36."""
    kinds, shapes = ("round", "square", "flat"), ("ball", "box", "sheet")
    rows = [
        {"prompt": f"item {n} is {kinds[n % 3]}", "completion": shapes[(n + (n in WRONG)) % 3]}
        for n in range(36)
    ]
    train = write_jsonl(tmp_path / "planted.jsonl", rows)
    return toy_recipe | {
        "task": toy_recipe["task"] | {"train": str(train)},
        "mixture": {"passes": 12},
        "training": toy_recipe["training"] | {"learning_rate": 1e-2},
    }


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / SCORES).read_text(encoding="utf-8").splitlines()]


def test_wrong_labels_come_first(planted: dict[str, Any], tmp_path: Path) -> None:
    report = score_by_pvi(planted, out=tmp_path / "out", folds=4, progress=False)
    rows = rows_of(tmp_path / "out")
    numbers = [int(row["prompt"].split()[1]) for row in rows]
    first = sorted(rows, key=lambda row: row["suspicion_rank"])[: len(WRONG)]
    assert {numbers[rows.index(row)] for row in first} == WRONG
    assert [row["origin"] for row in report.suspects[:3]] == [row["origin"] for row in first]
    # Three labels as often as one another: log2(3) bits at most, but for noise.
    right = [row["pvi"] for row, n in zip(rows, numbers, strict=True) if n not in WRONG]
    assert 0.5 < sum(right) / len(right) < 4
    assert report.examples == 36


def test_it_goes_on_where_it_was_cut_short(
    planted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score_by_pvi(planted, out=tmp_path / "whole", folds=2, progress=False)
    trained: list[str] = []
    train = module.train

    def cut(*args: Any, **kwargs: Any) -> Any:
        trained.append(kwargs["description"])
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    monkeypatch.setattr(module, "train", cut)
    with pytest.raises(KeyboardInterrupt):
        score_by_pvi(planted, out=tmp_path / "cut", folds=2, progress=False)
    again = score_by_pvi(planted, out=tmp_path / "cut", folds=2, progress=False)
    assert trained == [
        *("input, fold 1", "input, fold 2", "empty, fold 1"),
        *("empty, fold 1", "empty, fold 2"),
    ]
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")
    assert again.suspects == whole.suspects


def test_exemplars_need_no_training(
    planted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "train", None)
    out = tmp_path / "out"
    report = score_by_pvi(planted, out=out, folds=3, shots=2, progress=False)
    assert report.seconds["training"] == 0
    assert len({row["fold"] for row in rows_of(out)}) == 3


def test_what_cannot_be_scored_is_refused(planted: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RecipeError, match="--folds is 2 or more"):
        score_by_pvi(planted, out=out, folds=1)
    with pytest.raises(DataError, match="36 different prompts are too few for 40 folds"):
        score_by_pvi(planted, out=out, folds=40)
    with pytest.raises(RecipeError, match="full_parameters"):
        score_by_pvi(
            planted | {"training": {**planted["training"], "full_parameters": True}}, out=out
        )
    score_by_pvi(planted, out=out, folds=2, shots=1, progress=False)
    with pytest.raises(StorageError, match="other folds, shots"):
        score_by_pvi(planted, out=out, folds=3)
