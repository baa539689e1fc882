"""Means are over matched cells; cells of one method only do not count."""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING

import pytest

from telltune.study.report.matched import Matched, match_cells
from telltune.study.results import Results
from telltune.study.statistics.summary import summarize

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from telltune.study.results import ResultRow

NAMES = {"base": -2.0, "sft": 0.0, "sft_anchor": 0.0, "tell": 1.0}


def matched(folder: Path, drop: Callable[[ResultRow], bool]) -> Matched | None:
    rows = [row for row in Results(folder).rows if not drop(row)]
    points = summarize(folder, resamples=100).points
    return match_cells(folder, rows, points, resamples=100)


@pytest.fixture(scope="module")
def folder(
    write_study: Callable[..., list[ResultRow]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("matched")
    write_study(folder, NAMES, items=40, sizes=(3000, 10000), ratios=(5.0,))
    return folder


def test_only_tasks_sizes_and_seeds_that_both_ran_count(folder: Path) -> None:
    def lacks(row: ResultRow) -> bool:
        first = (row.task, row.size) == ("routing", 10000)
        return row.name == "tell" and (first or (row.task == "shapes" and row.seed == 2))

    found = matched(folder, lacks)
    assert found is not None
    assert found.cells == 1 * 3 + 2 * 2
    by_task = [
        [r for r in Results(folder).rows if (r.task, r.name) == (task, "sft")]
        for task in ("routing", "shapes")
    ]
    first = [row.score for row in by_task[0] if row.size == 3000]
    second = [row.score for row in by_task[1] if row.seed < 2]
    assert found.reference.score.mean == pytest.approx((fmean(first) + fmean(second)) / 2)
    assert found.difference.mean == pytest.approx(
        found.main.score.mean - fmean((fmean(first), fmean(second)))
    )
    assert found.difference.low < found.difference.mean < found.difference.high


def test_what_is_beside_the_score_is_that_of_the_rows(folder: Path) -> None:
    found = matched(folder, lambda row: False)
    assert found is not None
    assert [one.label for one in found.others] == ["base", "sft_anchor"]
    assert found.main.label == "tell"
    assert found.main.change is not None
    assert found.main.change.mean == pytest.approx(100 * 0.02 / 2.4)
    assert found.main.leakage == pytest.approx(0.05)
    assert found.reference.leakage == pytest.approx(0.6)
    base = found.others[0]
    assert (base.change, base.leakage) == ((0.0, 0.0, 0.0), 0.0)


def test_a_main_method_without_one_of_the_cells_is_left_out_by_name(folder: Path) -> None:
    def lacks(row: ResultRow) -> bool:
        return (row.name, row.size, row.seed) == ("sft_anchor", 3000, 1)

    found = matched(folder, lacks)
    assert found is not None
    assert found.left_out == ["sft_anchor"]
    assert found.cells == 12


def test_without_tell_another_method_is_compared_and_without_a_reference_none(folder: Path) -> None:
    found = matched(folder, lambda row: row.name == "tell")
    assert found is not None
    assert (found.main.label, found.reference.label) == ("sft_anchor", "sft")
    other = matched(folder, lambda row: row.name == "sft")
    assert other is not None
    assert (other.main.label, other.reference.label) == ("tell", "sft_anchor")
    assert matched(folder, lambda row: row.name != "tell") is None


def test_one_seed_shows_no_spread_of_the_loss(folder: Path) -> None:
    found = matched(folder, lambda row: row.seed > 0)
    assert found is not None
    assert found.main.change is not None
    assert math.isnan(found.main.change.low)
