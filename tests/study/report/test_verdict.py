"""The verdict has at most four sentences, which claim no more than the numbers show."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from telltune.study.report.matched import Estimate, Matched, Standing
from telltune.study.report.series import Series
from telltune.study.report.verdict import give_verdict, tell_emergence, tell_items
from telltune.study.statistics.emergence import Emergence
from telltune.study.statistics.item_changes import GeneralCurve, ItemChanges
from telltune.study.statistics.summary import Comparison, Point, SavedData, Summary, TimeBreakdown

CLEAR, UNCLEAR = 0.01, 0.4


def summary(*cells: tuple[str, int, str, float, float], seeds: int = 3) -> Summary:
    """Return a summary of comparisons with sft: task, size, method, difference, adjusted p."""
    return Summary(
        points=[
            Point(task, name, name, size, None, size, 0, "accuracy", 0, 0, 0, None, seeds, 9, 0, {})
            for task, size, name, _, _ in cells
        ],
        comparisons=[
            Comparison(task, size, name, None, "sft", gain, gain - 2, gain + 2, p / 2, p, 3)
            for task, size, name, gain, p in cells
        ],
        saved=[
            SavedData(task, size, name, None, "sft", gain, 1.0, None, "", f"{gain} (1.0 to >9.0)")
            for task, size, name, gain, _ in cells
        ],
        general_curves=[],
        failed=[],
        spent=TimeBreakdown(1.0, 1.0, 1.0, 0.1, 0.0, 0.03),
    )


def standing(label: str, points: float, **values: Any) -> Standing:
    around = Estimate(points, points - 4, points + 4)
    found = Standing(Series(label, None), label, around, None, None, 20.0, 3000.0, 0.0)
    return replace(found, **values)


SFT = standing("sft", 50.0, change=Estimate(50.0, 40.0, 60.0), leakage=0.5)
TELL = standing(
    "tell",
    54.0,
    change=Estimate(-10.0, -20.0, 0.0),
    leakage=0.0,
    seconds=90.0,
    general_tokens=12000.0,
)
MATCHED = Matched(["a", "b"], 6, TELL, SFT, [], Estimate(4.0, 1.0, 7.0), [])


def told(found: Summary, matched: Matched | None = MATCHED) -> str:
    return " ".join(give_verdict(found, matched).sentences)


def test_it_says_what_tell_gains_keeps_and_costs_against_sft() -> None:
    found = summary(
        ("a", 3000, "tell", 6.0, CLEAR),
        ("b", 3000, "tell", 9.0, CLEAR),
        ("c", 3000, "tell", -3.0, CLEAR),
        ("a", 3000, "other", 1.0, UNCLEAR),
    )
    assert give_verdict(found, MATCHED).sentences == (
        (
            "Over 6 cells of 2 tasks matched by task, size and seed, tell scores 54.0 against "
            "50.0 for sft (+4.0 points, 95% interval 1.0 to 7.0; clearly better in 2 and clearly "
            "worse in 1 of 3 single comparisons)."
        ),
        (
            "It changes the loss on held-out general text by −10.0% against +50.0% and answers "
            "0.0% of unrelated prompts in the task's format, against 50.0%."
        ),
        (
            "It trains 90 s per cell against 20 s, on 12,000 general tokens against 0 beside the "
            "same 3,000 task tokens."
        ),
        (
            "Most clear gains over sft: tell, the best of 2 on these same test items (2 better and "
            "1 worse of 3)."
        ),
    )


def test_what_was_not_measured_is_not_told() -> None:
    found = summary(("a", 3000, "tell", 6.0, CLEAR))
    bare = replace(MATCHED, main=replace(TELL, change=None, leakage=None))
    assert "general text" not in told(found, bare)
    assert "unrelated" not in told(found, bare)
    assert "by −10.0% against +50.0%." in told(
        found, replace(bare, main=replace(TELL, leakage=None))
    )


def test_a_lone_gain_does_not_hide_that_a_method_loses_elsewhere() -> None:
    cells = [("a", 3000, "tell", 8.0, CLEAR), ("b", 3000, "tell", -8.0, CLEAR)]
    steady = [("a", 3000, "steady", 0.5, UNCLEAR), ("b", 3000, "steady", 0.5, UNCLEAR)]
    verdict = give_verdict(summary(*cells, *steady), MATCHED)
    assert verdict.sentences[-1] == "No method is clearly ahead of sft."
    assert "clearly better in 1 and clearly worse in 1 of 2" in verdict.sentences[0]
    tally = verdict.tallies[1]
    assert (tally.label, tally.better, tally.unclear, tally.worse) == ("tell", 1, 0, 1)


def test_of_methods_alike_the_one_tried_on_most_tasks_comes_first() -> None:
    wide = [(task, 3000, "wide", 0.5, UNCLEAR) for task in "abc"]
    found = summary(*wide, ("a", 3000, "lucky", 6.0, UNCLEAR))
    assert [tally.label for tally in give_verdict(found, MATCHED).tallies] == ["wide", "lucky"]


def test_a_jump_is_told_with_its_place_and_how_sure_it_is() -> None:
    jump = Emergence("jump", 3000, 15000, 0, 60000, 12.3, 8.1, 16.4, 0.0004, 0.012)
    curve = GeneralCurve("routing", 3000, "tell", jump, None)
    assert tell_emergence(curve).replace("\u00a0", " ") == (
        "tell: the score rises at once, by +12.3 points (95% interval 8.1 to 16.4), between 3,000 "
        "and 15,000 general tokens (95%: between 0 and 60,000); p <0.001 for equal scores, "
        "p = 0.012 for a smooth curve."
    )
    flat = replace(curve, emergence=replace(jump, shape="flat", p_flat=0.3))
    assert "no clear difference (p = 0.300" in tell_emergence(flat).replace("\u00a0", " ")


def test_items_are_told_by_how_they_change() -> None:
    jump = Emergence("jump", 3000, 15000, 0, 60000, 12.3, 8.1, 16.4, 0.0004, 0.012)
    items = ItemChanges(
        always=50, never=30, at_jump=30, elsewhere=6, gradually=4, against=3, wavering=12
    )
    assert tell_items(items, jump) == (
        "40 items become right and stay so: 30 (75.0%) at once between 3,000 and 15,000 general "
        "tokens, 6 at once elsewhere, 4 gradually. 3 change once the other way, 12 more than once; "
        "50 are right and 30 wrong at all sizes."
    )
    fall = replace(jump, height=-12.3)
    still = replace(items, at_jump=0, elsewhere=0, gradually=0)
    assert tell_items(still, fall).startswith("0 items become wrong and stay so: 0 at once")


def test_one_failed_cell_is_one_cell() -> None:
    failed = replace(summary(("a", 3000, "tell", 6.0, CLEAR)), failed=[{"name": "sft"}])
    notes = give_verdict(failed, MATCHED).notes
    assert notes == ["1 cell failed; the results below exclude failed cells."]


def test_where_all_methods_tie_no_winner_is_named_and_tell_is() -> None:
    cells = [("a", 3000, "tell", 0.0, 1.0), ("a", 3000, "mix", 3.0, UNCLEAR)]
    text = told(summary(*cells))
    assert "tell scores 54.0 against 50.0 for sft" in text
    assert "no clear difference in any of 1 single comparisons" in text
    assert text.endswith("No method differs clearly from sft anywhere: all tie.")
    assert "mix" not in text


def test_methods_with_as_many_clear_gains_have_no_winner() -> None:
    cells = [("a", 3000, "tell", 6.0, CLEAR), ("a", 3000, "mix", 7.0, CLEAR)]
    assert "mix and tell tie for the most net clear gains, so none is" in told(summary(*cells))
    many = [("a", 3000, name, 6.0, CLEAR) for name in ("tell", "mix", "more", "most")]
    assert "4 methods tie for the most net clear gains" in told(summary(*many))


def test_without_a_reference_overlapping_intervals_name_no_winner() -> None:
    found = summary(("a", 3000, "tell", 0.0, UNCLEAR), ("a", 3000, "mix", 0.0, UNCLEAR))
    first, second = (
        replace(point, score=score, low=score - 4, high=score + 4)
        for point, score in zip(found.points, (50.0, 52.0), strict=True)
    )
    alone = replace(found, comparisons=[], saved=[], points=[first, second])
    assert "No method is clearly best on a." in told(alone, None)
    apart = replace(alone, points=[first, replace(second, score=90.0, low=80.0)])
    assert "Highest scores: mix with 3,000 task tokens on a (90.0" in told(apart, None)
    assert "TELL" in told(apart, None)


def test_sizes_beyond_the_data_are_told() -> None:
    found = summary(
        *(("a", size, "tell", 1.0, UNCLEAR) for size in (200, 5000, 50000)),
        ("b", 5000, "tell", 1.0, UNCLEAR),
    )
    points = [
        replace(p, task_tokens=min(0.95 * p.size, 1907)) if p.task == "a" else p  # type: ignore[operator]
        for p in found.points
    ]
    assert give_verdict(replace(found, points=points), MATCHED).notes == [
        "On a, the cells of 5,000 and 50,000 task tokens used at most 1,907."
    ]


def test_of_perplexities_the_lowest_is_best() -> None:
    found = summary(("a", 3000, "sft", 0.0, UNCLEAR), ("a", 3000, "tell", 0.0, UNCLEAR))
    sft, tell = (
        replace(point, metric="perplexity", score=score, low=score - 1, high=score + 1)
        for point, score in zip(found.points, (9.0, 4.0), strict=True)
    )
    found = replace(found, comparisons=[], saved=[], points=[sft, tell])
    text = told(found, None)
    assert "Lowest perplexity: tell with 3,000 task tokens on a (4.0" in text
    assert "by which methods are not compared" in text
    assert "no method at the same" not in text
    for near in (replace(sft, low=4.5), replace(sft, low=math.nan, high=math.nan)):
        assert "No method is clearly best on a." in told(replace(found, points=[near, tell]), None)


def test_tell_is_told_whatever_it_is_called_and_whoever_is_best() -> None:
    cells = [("a", 3000, "ours", -5.0, CLEAR), ("a", 3000, "mix", 7.0, CLEAR)]
    found = summary(*cells)
    points = [replace(p, method="tell") if p.name == "ours" else p for p in found.points]
    matched = replace(MATCHED, main=standing("ours", 45.0), difference=Estimate(-5.0, -7.0, -3.0))
    text = told(replace(found, points=points), matched)
    assert "ours (TELL) scores 45.0 against 50.0 for sft (−5.0 points" in text
    assert "Most clear gains over sft: mix" in text
    assert "TELL did not run" not in text
    other = replace(MATCHED, main=standing("mix", 57.0), left_out=["ours"])
    verdict = give_verdict(found, other)
    assert verdict.sentences[0].startswith("TELL did not run on the same cells as sft. Over 6")
    assert verdict.notes == ["Not on all of these cells, so not compared here: ours."]
