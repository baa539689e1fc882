"""Rows on disk are complete or absent, once per cell, and identified by their work."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from telltune.errors import StorageError
from telltune.study.results import RESULTS, ResultRow, Results, cell_key
from telltune.study.spec import Cell, StudySpec, cells_of

if TYPE_CHECKING:
    from pathlib import Path

ROW = ResultRow("k1", "done", "routing", "sft", "sft", 3000, None, 0, metric="accuracy")


def cells(**values: object) -> list[Cell]:
    spec = {
        "recipe": {"task": "medical_specialty", "general": "embedded"},
        "methods": ["sft"],
        "sizes": [3000],
    }
    return cells_of(StudySpec.model_validate(spec | values))


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    other = replace(
        ROW, key="k2", seed=1, per_item={"accuracy": [0.0, 100.0]}, scores={"accuracy": {}}
    )
    results = Results(tmp_path)
    results.append(ROW)
    results.append(other)
    assert Results(tmp_path).rows == [ROW, other]


def test_bounds_that_are_not_known_are_null_on_disk(tmp_path: Path) -> None:
    bounds = {"accuracy": {"score": 3.0, "low": math.nan, "high": math.nan}}
    Results(tmp_path).append(replace(ROW, scores=bounds))
    assert "NaN" not in (tmp_path / RESULTS).read_text()
    [row] = Results(tmp_path).rows
    assert row.score == 3.0
    assert math.isnan(row.scores["accuracy"]["low"])


def test_the_latest_row_of_a_cell_counts(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.append(replace(ROW, status="failed", reason="no memory"))
    results.append(ROW)
    assert Results(tmp_path).rows == [ROW]


def test_a_row_that_was_cut_short_is_gone_and_the_next_one_whole(tmp_path: Path) -> None:
    Results(tmp_path).append(ROW)
    file = tmp_path / RESULTS
    whole = file.read_bytes()
    file.write_bytes(whole + whole[: len(whole) // 2])
    again = Results(tmp_path)
    assert again.rows == [ROW]
    again.append(replace(ROW, key="k2", seed=1))
    assert [row.key for row in Results(tmp_path).rows] == ["k1", "k2"]


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    Results(tmp_path).append(ROW)
    with (tmp_path / RESULTS).open("a") as file:
        file.write("{oops}\n")
    with pytest.raises(StorageError, match=r"results\.jsonl:2: not a study row"):
        Results(tmp_path)


def test_without_a_list_of_cells_rows_on_other_test_items_are_left_out(tmp_path: Path) -> None:
    results = Results(tmp_path)
    old, new = replace(ROW, hashes={"test": "a"}), replace(ROW, hashes={"test": "b"}, seed=1)
    dev = replace(ROW, hashes={"dev": "c"}, seed=2, split="dev")
    failed = replace(ROW, status="failed", seed=3)
    elsewhere, search = replace(old, task="other"), replace(dev, task="a search")
    for row in (old, new, dev, failed, elsewhere, search):
        results.append(row)
    assert Results(tmp_path).of_study == [new, failed, elsewhere, search]


def test_only_listed_cells_are_of_the_study(tmp_path: Path) -> None:
    results = Results(tmp_path)
    [cell] = cells()
    row = replace(ROW, task=cell.task)
    edited, other = replace(row, key="k2"), replace(row, key="k3", seed=1)
    for each in (row, other):
        results.append(each)
    results.list_cells({cell: "k1"})
    assert Results(tmp_path).of_study == [row]
    results.append(edited)
    assert Results(tmp_path).of_study == []
    results.list_cells({cell: "k2"})
    assert Results(tmp_path).of_study == [edited]


def test_the_same_work_is_found_under_another_name(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.append(ROW)
    [renamed] = cells(methods=[{"method": "sft", "name": "plain"}])
    assert results.find(renamed, "k1") == ROW
    assert results.find(renamed, "k2") is None


def test_a_key_is_that_of_the_work() -> None:
    [cell] = cells()
    hashes = {"train": "a", "test": "b", "base": "c"}
    key = cell_key(cell, hashes)
    assert key == cell_key(cells(methods=[{"method": "sft", "name": "plain"}])[0], hashes)
    assert key != cell_key(cell, hashes | {"train": "other"})
    for changed in (
        cells(sizes=[4000]),
        cells(seeds=[1]),
        cells(methods=[{"method": "sft", "set": {"training.learning_rate": 1e-3}}]),
    ):
        assert cell_key(changed[0], hashes) != key


def test_rows_of_earlier_versions_are_found() -> None:
    hashes = {"train": "a", "test": "b", "base": "c"}
    assert cell_key(cells()[0], hashes) == "4417eaa5ac0c3a57"
    off = cells(recipe={"task": "medical_specialty", "training": {"kernels": "off"}})
    on = cells(recipe={"task": "medical_specialty"})
    assert cell_key(off[0], hashes) == cell_key(on[0], hashes)
    tracked = cells(recipe={"task": "medical_specialty", "training": {"report_to": "wandb"}})
    assert cell_key(tracked[0], hashes) == cell_key(on[0], hashes)


def test_a_key_does_not_depend_on_where_files_lie(tmp_path: Path) -> None:
    keys = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.jsonl").write_text('{"prompt": "p", "completion": "c"}\n')
        recipe = {"task": {"train": str(tmp_path / folder / "train.jsonl")}}
        keys.append(cell_key(cells(recipe=recipe)[0], {}))
    assert keys[0] == keys[1]


def test_an_edited_cell_stands_for_what_it_was_and_an_undone_edit_finds_its_row(
    tmp_path: Path,
) -> None:
    [cell] = cells()
    results = Results(tmp_path)
    old = ResultRow("old", "done", cell.task, "sft", "sft", 3000, None, 0)
    results.append(old)
    results.append(replace(old, key="new"))
    again = Results(tmp_path)
    assert [row.key for row in again.rows] == ["new"]
    assert again.find(cell, "old") == old
    assert not again.is_latest(cell, old)
    again.append(old)
    assert again.rows == [old]
