"""Examples are scored by PVI with real trainings of the tiny model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from telltune.errors import DataError, RecipeError, StorageError
from telltune.study.example_scores import SCORES, score_examples
from telltune.valuation import pvi

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WRONG = {4, 13, 21}


@pytest.fixture
def planted(
    toy_recipe: dict[str, Any], tmp_path: Path, write_jsonl: Callable[..., Path]
) -> dict[str, Any]:
    """Return the toy recipe with three wrong labels among 36."""
    kinds, shapes = ("round", "square", "flat"), ("ball", "box", "sheet")
    rows = [
        {"prompt": f"item {n} is {kinds[n % 3]}", "completion": shapes[(n + (n in WRONG)) % 3]}
        for n in range(36)
    ]
    train = write_jsonl(tmp_path / "planted.jsonl", rows)
    return toy_recipe | {
        "task": toy_recipe["task"] | {"train": str(train)},
        "mixture": {"passes": 9},
        "training": toy_recipe["training"] | {"learning_rate": 1e-2},
        "selection": {"folds": 3},
    }


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an empty cache, without the scores of other tests."""
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "cache"))


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / SCORES).read_text(encoding="utf-8").splitlines()]


def by(recipe: dict[str, Any], **selection: Any) -> dict[str, Any]:
    return recipe | {"selection": selection}


@pytest.mark.usefixtures("small_batches")
def test_wrong_labels_come_first(planted: dict[str, Any], tmp_path: Path) -> None:
    report = score_examples(planted, out=tmp_path / "out", progress=False)
    rows = rows_of(tmp_path / "out")
    numbers = [int(row["prompt"].split()[1]) for row in rows]
    first = sorted(rows, key=lambda row: row["hardness_rank"])[: len(WRONG)]
    assert {numbers[rows.index(row)] for row in first} == WRONG
    assert [row["origin"] for row in report.hardest[:3]] == [row["origin"] for row in first]
    # Three equally frequent labels: at most log2(3) bits, except for noise.
    right = [row["pvi"] for row, n in zip(rows, numbers, strict=True) if n not in WRONG]
    assert 0.5 < sum(right) / len(right) < 4
    assert report.examples == 36


def test_it_goes_on_where_it_was_cut_short_and_nothing_is_scored_twice(
    planted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = by(planted, folds=2) | {"mixture": {"passes": 1}}
    trained: list[str] = []
    train = pvi.train

    def cut(*args: Any, **kwargs: Any) -> Any:
        trained.append(args[3].description)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    monkeypatch.setattr(pvi, "train", cut)
    with pytest.raises(KeyboardInterrupt):
        score_examples(recipe, out=tmp_path / "out", progress=False)
    cut_short = score_examples(recipe, out=tmp_path / "out", progress=False)
    assert trained == [
        *("input, fold 1", "input, fold 2", "empty, fold 1"),
        *("empty, fold 1", "empty, fold 2"),
    ]
    again = score_examples(recipe, out=tmp_path / "again", progress=False)
    assert len(trained) == 5
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "again")
    assert again.seconds["training"] == cut_short.seconds["training"] > 0


def test_exemplars_need_no_training(
    planted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pvi, "train", None)
    out = tmp_path / "out"
    score_examples(by(planted, folds=3, in_context=2), out=out, progress=False)
    assert len({row["fold"] for row in rows_of(out)}) == 3


def test_what_cannot_be_scored_is_refused(planted: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RecipeError, match="folds"):
        score_examples(by(planted, folds=1), out=out)
    with pytest.raises(DataError, match="36 different prompts are too few for 40 folds"):
        score_examples(by(planted, folds=40), out=out)
    full = {"training": {**planted["training"], "full_parameters": True}}
    with pytest.raises(RecipeError, match="full_parameters"):
        score_examples(planted | full, out=tmp_path / "full")
    score_examples(by(planted, folds=2, in_context=1), out=tmp_path / "one", progress=False)
    with pytest.raises(StorageError, match="another recipe"):
        score_examples(by(planted, folds=3), out=tmp_path / "one")
