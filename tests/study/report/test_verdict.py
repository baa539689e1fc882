"""Two sentences that say no more than the numbers do."""

from __future__ import annotations

from dataclasses import replace

from telltune.study.report.verdict import Verdict, give_verdict, tell_emergence, tell_items
from telltune.study.statistics.emergence import Emergence
from telltune.study.statistics.item_changes import ItemChanges
from telltune.study.statistics.summary import Comparison, GeneralCurve, Point, SavedData, Summary
from telltune.study.statistics.time_breakdown import TimeBreakdown

CLEAR, UNCLEAR = 0.01, 0.4


def summary(*cells: tuple[str, int, str, float, float], seeds: int = 3) -> Summary:
    """Of comparisons with sft: task, size, method, difference, adjusted p."""
    return Summary(
        points=[
            Point(task, name, name, size, None, 0, 0, "accuracy", 0, 0, 0, None, seeds, 9, 0, {})
            for task, size, name, _, _ in cells
        ],
        comparisons=[
            Comparison(task, size, name, None, "sft", gain, gain - 2, gain + 2, p / 2, p)
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


def told(found: Summary) -> str:
    return told_of(give_verdict(found))


def told_of(verdict: Verdict) -> str:
    return " ".join(verdict.sentences).replace("\u00a0", " ")


def test_gains_and_losses_stand_in_one_sentence() -> None:
    text = told(
        summary(
            ("a", 3000, "tell", 6.0, CLEAR),
            ("b", 3000, "tell", 9.0, CLEAR),
            ("c", 3000, "tell", -3.0, CLEAR),
            ("a", 10000, "tell", -1.0, CLEAR),
            ("a", 3000, "other", 1.0, UNCLEAR),
        )
    )
    assert text.startswith(
        "With 3,000 task tokens, tell is clearly better than sft on 2 of 3 tasks: +6.0 points on a "
        "(95% interval 4.0 to 8.0, p = 0.010 after Holm) and +9.0 on b (7.0 to 11.0, p = 0.010); "
        "it is clearly worse on 1: −3.0 points on c"
    )
    assert "at its other sizes it is clearly better in 0 and clearly worse in 1 of 1" in text


def test_many_tasks_are_told_by_their_extremes() -> None:
    text = told(summary(*((task, 3000, "tell", ord(task) - 90.0, CLEAR) for task in "abcde")))
    assert "on 5 of 5 tasks: from +7.0 points on a" in text
    assert "to +11.0 on e (9.0 to 13.0, p = 0.010)." in text
    assert "is from 7.0 (1.0 to >9.0) on a to 11.0 (1.0 to >9.0) on e (95% intervals)." in text


def test_a_lone_gain_does_not_hide_that_a_method_loses_elsewhere() -> None:
    cells = [("a", 3000, "tell", 8.0, CLEAR), ("b", 3000, "tell", -8.0, CLEAR)]
    steady = [("a", 3000, "steady", 0.5, UNCLEAR), ("b", 3000, "steady", 0.5, UNCLEAR)]
    verdict = give_verdict(summary(*cells, *steady))
    assert verdict.sentences[0].startswith("No method is clearly ahead of sft: the closest")
    assert "tell with 3,000 task tokens is clearly better than sft on 1 of 2" in told_of(verdict)
    tally = verdict.tallies[1]
    assert (tally.label, tally.better, tally.unclear, tally.worse) == ("tell", 1, 0, 1)


def test_of_methods_alike_the_one_tried_on_most_tasks_is_told() -> None:
    wide = [(task, 3000, "wide", 0.5, UNCLEAR) for task in "abc"]
    found = summary(*wide, ("a", 3000, "lucky", 6.0, UNCLEAR))
    assert "the closest, wide with 3,000 task tokens" in told(found)
    assert "TELL did not run at the same size of a task as sft." in told(found)
    better = summary(*wide, ("a", 3000, "lucky", 6.0, CLEAR))
    assert told(better).startswith("With 3,000 task tokens, lucky is clearly better than sft on 1")


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
    assert "1 cell failed; the results below exclude failed cells." in give_verdict(failed).notes


def test_where_all_methods_tie_no_winner_is_named_and_tell_is() -> None:
    cells = [("a", 3000, "tell", 0.0, 1.0), ("a", 3000, "mix", 3.0, UNCLEAR)]
    verdict = give_verdict(summary(*cells))
    assert verdict.sentences[0].startswith(
        "No method is clearly ahead of sft: all tie, and tell with 3,000 task tokens is "
        "neither clearly better nor worse: +0.0 points on a"
    )
    assert "mix" not in " ".join([*verdict.sentences, *verdict.notes])


def test_methods_with_as_many_clear_gains_have_no_winner() -> None:
    cells = [("a", 3000, "tell", 6.0, CLEAR), ("a", 3000, "mix", 7.0, CLEAR)]
    notes = " ".join(give_verdict(summary(*cells)).notes)
    assert "mix and tell tie for the most net clear gains, so none is the winner" in notes


def test_without_a_reference_overlapping_intervals_name_no_winner() -> None:
    found = summary(("a", 3000, "tell", 0.0, UNCLEAR), ("a", 3000, "mix", 0.0, UNCLEAR))
    first, second = (
        replace(point, score=score, low=score - 4, high=score + 4)
        for point, score in zip(found.points, (50.0, 52.0), strict=True)
    )
    alone = replace(found, comparisons=[], saved=[], points=[first, second])
    assert "No method is clearly highest on a." in told(alone)
    apart = replace(alone, points=[first, replace(second, score=90.0, low=80.0)])
    assert "Highest scores: mix with 3,000 task tokens on a (90.0" in told(apart)
    assert "TELL" in told(apart)


def test_tell_is_told_whatever_it_is_called_and_whoever_is_best() -> None:
    cells = [("a", 3000, "ours", -5.0, CLEAR), ("a", 3000, "mix", 7.0, CLEAR)]
    found = summary(*cells)
    points = [replace(p, method="tell") if p.name == "ours" else p for p in found.points]
    text = told(replace(found, points=points))
    assert text.startswith("With 3,000 task tokens, mix is clearly better than sft on 1 of 1 task")
    assert "ours (TELL) with 3,000 task tokens is clearly worse than sft on 1 of 1 task" in text


BEFORE = {"general_nll_before": 2.0, "leakage_before": 0.0}


def aside(loss: float, leakage: float = 0.0) -> dict[str, float]:
    return BEFORE | {"general_nll_after": loss, "leakage_after": leakage}


def test_what_training_cost_beside_the_task_is_the_first_note() -> None:
    found = summary(("a", 3000, "tell", 0.0, UNCLEAR), ("a", 3000, "other", 0.0, UNCLEAR))
    after = {"tell": aside(1.8), "other": aside(3.0, 0.5)}
    points = [replace(point, forgetting=after[point.name]) for point in found.points]
    assert give_verdict(replace(found, points=points)).notes[0] == (
        "Forgetting: the loss on general examples changes by +50% after other and -10% after "
        "tell; the share of unrelated prompts answered in the task's format is 50% after other "
        "and 0% after tell. (Means over the 1 cell matched by task, size and seed.)"
    )
    assert not any("Forgetting" in note for note in give_verdict(found).notes)


def test_what_training_cost_is_held_against_each_other_on_matched_cells_only() -> None:
    """SFT ran on an easy task too, and with a seed more, where it forgot less."""
    cells = [("a", 3000, "sft", 0.0, UNCLEAR), ("b", 3000, "sft", 0.0, UNCLEAR)]
    found = summary(*cells, ("a", 3000, "tell", 0.0, UNCLEAR))
    by_seed = {
        ("a", "sft"): {0: aside(4.0), 1: aside(4.0), 2: aside(2.0)},
        ("b", "sft"): {0: aside(2.0), 1: aside(2.0)},
        ("a", "tell"): {0: aside(2.2), 1: aside(2.2)},
    }
    points = [replace(point, by_seed=by_seed[point.task, point.name]) for point in found.points]
    note = give_verdict(replace(found, points=points)).notes[0]
    assert "+100% after sft and +10% after tell" in note
    assert "Means over the 2 cells" in note


def test_a_method_that_shares_no_cell_is_left_out_by_name() -> None:
    found = summary(("a", 3000, "tell", 0.0, UNCLEAR), ("b", 3000, "other", 0.0, UNCLEAR))
    points = [replace(point, forgetting=aside(3.0)) for point in found.points]
    note = give_verdict(replace(found, points=points)).notes[0]
    assert "by +50% after tell;" in note
    assert "no shared cell: other" in note


def test_of_many_methods_the_first_note_names_tell_the_best_and_the_references() -> None:
    names = ["sft", "sft_anchor", "tell", "mix", "few_shot"]
    found = summary(*(("a", 3000, name, float(name == "mix"), UNCLEAR) for name in names))
    beside = {"general_nll_before": 2.0, "general_nll_after": 1.0}
    points = [replace(point, forgetting=beside) for point in found.points]
    assert give_verdict(replace(found, points=points)).notes[0] == (
        "Forgetting: the loss on general examples changes by -50% after tell, -50% after sft "
        "and -50% after sft_anchor. (Means over the 1 cell matched by task, size and seed; the "
        "table lists the other methods.)"
    )
