"""A study's summary can be traced to rows, pools seeds, and compares with SFT."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import pytest

from telltune.errors import StorageError
from telltune.study.results import ANSWERS, ResultRow, Results
from telltune.study.statistics.item_changes import ItemChanges
from telltune.study.statistics.summary import summarize, time_spent

if TYPE_CHECKING:
    from pathlib import Path

ITEMS = 100


def put(
    folder: Path,
    name: str,
    share: float,
    *,
    task: str = "routing",
    size: int | None = 1000,
    seed: int = 0,
    ratio: float | None = None,
) -> ResultRow:
    """Write a finished cell in which a share of the items, the first ones, is right."""
    right = round(share * ITEMS)
    answers = ["yes"] * right + ["no"] * (ITEMS - right)
    key = f"{task}-{name}-{size}-{ratio}-{seed}"
    lines = [
        json.dumps({"prompt": f"item {i}", "reference": "yes", "prediction": answer})
        for i, answer in enumerate(answers)
    ]
    (folder / ANSWERS).mkdir(parents=True, exist_ok=True)
    (folder / ANSWERS / f"{key}.jsonl").write_text("\n".join(lines) + "\n")
    row = ResultRow(
        key,
        "done",
        task,
        name,
        name,
        size,
        ratio,
        seed,
        metric="accuracy",
        scores={"accuracy": {"score": 100 * share, "low": 0.0, "high": 100.0}},
        per_item={"accuracy": [100.0 * (a == "yes") for a in answers]},
        counts={"task_tokens": (size or 0) - seed, "general_tokens": 50},
        forgetting={"general_nll_before": 2.0, "general_nll_after": 2.0 + seed},
        seconds={"training": 10.0 + seed, "answering": 5.0, "general": 4.0, "other": 1.0},
    )
    Results(folder).append(row)
    return row


def test_seeds_are_one_point(tmp_path: Path) -> None:
    rows = [put(tmp_path, "sft", share, seed=seed) for seed, share in enumerate((0.5, 0.6, 0.7))]
    [point] = summarize(tmp_path).points
    assert point.score == pytest.approx(fmean(row.score for row in rows))
    assert point.deviation == pytest.approx(np.std([50, 60, 70], ddof=1))
    assert point.low < 60 < point.high
    assert (point.seeds, point.items, point.task_tokens) == (3, ITEMS, 999)
    assert point.seconds == 11
    assert point.forgetting == {"general_nll_before": 2.0, "general_nll_after": 3.0}


def test_methods_are_held_against_sft_at_the_same_size_of_the_same_task(tmp_path: Path) -> None:
    for task in ("routing", "rewriting"):
        put(tmp_path, "base", 0.1, task=task, size=None)
        put(tmp_path, "sft", 0.5, task=task)
        put(tmp_path, "tell", 0.9, task=task, ratio=8)
    put(tmp_path, "tell", 0.95, size=2000, ratio=8)
    found = summarize(tmp_path).comparisons
    assert [(c.task, c.size, c.name, c.against) for c in found] == [
        ("routing", 1000, "tell", "sft"),
        ("rewriting", 1000, "tell", "sft"),
    ]
    assert all(c.difference == pytest.approx(40) for c in found)
    assert all(0 < c.low < 40 < c.high and c.p_adjusted < 0.001 for c in found)


def test_methods_are_held_against_each_other_on_the_same_seeds(tmp_path: Path) -> None:
    for seed, share in enumerate((0.5, 0.5, 0.9)):
        put(tmp_path, "sft", share, seed=seed)
    put(tmp_path, "sft", 0.3, size=500, seed=2)
    for seed in (0, 1):
        put(tmp_path, "tell", 0.6, seed=seed, ratio=8)
    put(tmp_path, "mix", 0.6, seed=7)
    summary = summarize(tmp_path)
    [found] = summary.comparisons  # mix shares no seed with SFT
    assert (found.name, found.difference, found.seeds) == ("tell", pytest.approx(10), 2)
    [saved] = summary.saved
    # SFT's smaller size ran with another seed only, and its third seed is not in the curve.
    assert (saved.censored, saved.data_saving_factor) == (">", 1)
    assert summary.points[0].by_seed[2] == {"general_nll_before": 2.0, "general_nll_after": 4.0}


def test_several_comparisons_are_corrected_together(tmp_path: Path) -> None:
    put(tmp_path, "sft", 0.5)
    put(tmp_path, "mix", 0.57)
    put(tmp_path, "tell", 0.57, ratio=8)
    first, second = summarize(tmp_path).comparisons
    assert first.p_value == second.p_value < 0.05
    assert first.p_adjusted == second.p_adjusted == pytest.approx(2 * first.p_value)


def test_the_saved_data_is_read_off_sfts_own_curve(tmp_path: Path) -> None:
    for size, share in ((1000, 0.3), (10_000, 0.6), (100_000, 0.9)):
        put(tmp_path, "sft", share, size=size)
    put(tmp_path, "tell", 0.45, ratio=8)
    put(tmp_path, "mix", 0.95, ratio=8)
    saved = {one.name: one for one in summarize(tmp_path).saved}
    # In the middle of 1,000 and 10,000 on a log scale.
    assert saved["tell"].data_saving_factor == pytest.approx(10**0.5)
    assert saved["tell"].low < 10**0.5 < (saved["tell"].high or np.inf)
    assert (saved["mix"].censored, saved["mix"].data_saving_factor, saved["mix"].high) == (
        ">",
        100,
        None,
    )
    assert saved["mix"].text.startswith(">100")


def test_the_time_of_all_cells_is_added_up(tmp_path: Path) -> None:
    put(tmp_path, "sft", 0.5)
    put(tmp_path, "sft", 0.5, seed=1)
    told = summarize(tmp_path).to_dict()["spent"]
    assert told == {
        "training": 21.0,
        "answering": 10.0,
        "general": 8.0,
        "other": 2.0,
        "failed": 0,
        "overhead": pytest.approx(2 / 41),
    }


def series(folder: Path, *shares: float, name: str = "tell") -> None:
    """Write cells of a method at growing leverage ratios."""
    for step, share in enumerate(shares):
        row = put(folder, name, share, ratio=4.0**step)
        counts = row.counts | {"general_tokens": 1000 * 4**step}
        Results(folder).append(replace(row, counts=counts))


def test_items_that_change_at_the_jump_are_counted(tmp_path: Path) -> None:
    series(tmp_path, 0.2, 0.2, 0.6, 0.7)
    [curve] = summarize(tmp_path).general_curves
    assert (curve.emergence.before, curve.emergence.after) == (4000, 16000)
    assert curve.items == ItemChanges(
        always=20, never=30, at_jump=40, elsewhere=10, gradually=0, against=0, wavering=0
    )
    assert len(json.dumps(summarize(tmp_path).to_dict()["general_curves"])) < 1000


def test_three_amounts_of_general_data_are_no_curve_to_fit(tmp_path: Path) -> None:
    series(tmp_path, 0.2, 0.2, 0.6)
    summary = summarize(tmp_path)
    assert (len(summary.points), summary.general_curves) == (3, [])


def test_general_data_alone_has_a_curve_too(tmp_path: Path) -> None:
    series(tmp_path, 0.2, 0.2, 0.6, 0.6, name="general_only")
    for row in Results(tmp_path).rows:
        Results(tmp_path).append(replace(row, counts=row.counts | {"task_tokens": 0}))
    [curve] = summarize(tmp_path).general_curves
    assert curve.emergence.height == pytest.approx(40)


def test_perplexity_weights_items_by_their_tokens(tmp_path: Path) -> None:
    row = put(tmp_path, "tell", 0.5)
    items = {"metric": "perplexity", "per_item": {"perplexity": [2.0, 8.0]}}
    Results(tmp_path).append(replace(row, **items, reference_tokens=[3, 1]))
    [point] = summarize(tmp_path).points
    # (2^3 * 8)^(1/4), where the mean over items is 5.
    assert point.score == pytest.approx(64**0.25)
    assert 2 <= point.low <= point.score <= point.high <= 8
    Results(tmp_path).append(replace(row, **items))
    with pytest.raises(StorageError, match="without `reference_tokens`; remove the row"):
        summarize(tmp_path)


def test_failed_cells_are_listed(tmp_path: Path) -> None:
    put(tmp_path, "sft", 0.5)
    Results(tmp_path).append(
        ResultRow("k", "failed", "routing", "tell", "tell", 1000, 8, 0, reason="no memory")
    )
    summary = summarize(tmp_path)
    assert [(one["name"], one["reason"]) for one in summary.failed] == [("tell", "no memory")]
    assert len(summary.points) == 1
    json.dumps(summary.to_dict(), allow_nan=False)


def test_a_study_of_which_every_cell_failed_says_why_and_where_to_look(tmp_path: Path) -> None:
    for seed, reason in enumerate(("no memory.", "no memory", "no room")):
        row = ResultRow(f"k{seed}", "failed", "routing", "sft", "sft", 1000, None, seed)
        Results(tmp_path).append(replace(row, reason=reason))
    said = r"all 3 cells of the study failed: no memory; no room; see .*failures, and run"
    with pytest.raises(StorageError, match=said):
        summarize(tmp_path)


def test_nothing_finished_and_lost_answers_are_errors(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no finished cell of a study"):
        summarize(tmp_path)
    row = put(tmp_path, "sft", 0.5)
    (tmp_path / ANSWERS / f"{row.key}.jsonl").unlink()
    with pytest.raises(StorageError, match=f"remove its row \\({row.key}\\)"):
        summarize(tmp_path)


def timed(key: str, status: str = "done", **seconds: float) -> ResultRow:
    name = f"method {key}"
    return ResultRow(key, status, "routing", name, name, 1000, None, 0, seconds=seconds)  # type: ignore[arg-type]


def test_overhead_is_what_is_neither_training_nor_asking() -> None:
    spent = time_spent(
        [
            timed("a", training=0.0, answering=30.0, general=60.0, other=10.0),
            timed("b", training=70.0, answering=20.0, general=9.0, other=1.0),
        ]
    )
    assert (spent.training, spent.answering, spent.general, spent.other) == (70, 50, 69, 11)
    assert spent.finished == 200
    assert spent.overhead == pytest.approx(0.055)


def test_failed_cells_are_no_overhead_but_told() -> None:
    done = timed("a", training=8.0, answering=1.0, general=0.5, other=0.5)
    spent = time_spent([done, timed("b", "failed", other=100.0)])
    assert spent.failed == 100
    assert spent.finished == 10
    assert spent.overhead == pytest.approx(0.05)


def test_work_under_two_names_was_done_once() -> None:
    done = timed("a", training=8.0, answering=1.0, general=0.5, other=0.5)
    assert time_spent([done, replace(done, name="renamed")]) == time_spent([done])
