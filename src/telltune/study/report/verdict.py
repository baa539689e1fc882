"""Verdict of a study: at most four sentences that claim no more than its numbers support."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from telltune.evaluation.score import PERPLEXITY
from telltune.html_report.formats import (
    interval,
    number,
    p_value,
    score,
    share,
    signed,
)
from telltune.study.report.series import Series, label_series, series_of
from telltune.study.statistics.summary import REFERENCES, Comparison, Summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.study.report.matched import Matched
    from telltune.study.statistics.emergence import Emergence
    from telltune.study.statistics.item_changes import GeneralCurve, ItemChanges

_LEVEL = 0.05

_REACHED = 0.9
"""Least share of a size that is used if there are enough data."""

_SPELLED_OUT = 3
"""Maximum number of methods listed in a sentence."""


@dataclass(frozen=True)
class Tally:
    """Comparisons of a method with the reference, counted over all tasks and sizes.

    Attributes:
        better: Number of comparisons in which the method is clearly better.
        worse: Number of comparisons in which it is clearly worse.
        difference: Mean difference over all comparisons, in points.
    """

    label: str
    better: int
    unclear: int
    worse: int
    difference: float


@dataclass(frozen=True)
class Verdict:
    """Verdict of a study.

    Attributes:
        sentences: At most four: the main method's score against SFT, what both forget and leak,
            what they cost, and whether a method is clearly ahead.
    """

    sentences: tuple[str, ...]
    notes: list[str]
    tallies: list[Tally]


def reference_of(summary: Summary) -> str | None:
    """Return the reference of comparisons: SFT if the study has it, else SFT with the anchor."""
    known = {comparison.against for comparison in summary.comparisons}
    return next((name for name in REFERENCES if name in known), None)


def is_clear(comparison: Comparison) -> bool:
    """Return whether the difference is significant after Holm's correction."""
    return comparison.p_adjusted < _LEVEL


def give_verdict(summary: Summary, matched: Matched | None) -> Verdict:
    """Report the main method against the reference on matched cells, and who is clearly ahead.

    A method is called the winner only if it alone has the most clear gains minus clear losses over
    all tasks and sizes, and more gains than losses.
    """
    labels = label_series(summary.points)
    reference = reference_of(summary)
    notes = _notes(summary)
    if reference is None or matched is None:
        return Verdict(_without_reference(summary, labels), notes, [])
    by_series: dict[Series, list[Comparison]] = {}
    for comparison in summary.comparisons:
        if comparison.against == reference:
            by_series.setdefault(series_of(comparison), []).append(comparison)
    ranked = sorted(by_series, key=lambda series: _merit(by_series[series]), reverse=True)
    sentences = [
        _score(matched, by_series.get(matched.main.series, []), _is_tell(summary, matched)),
        _beside(matched),
        _cost(matched),
        _winner(by_series, ranked, labels, reference),
    ]
    if matched.left_out:
        notes.append(
            f"Not on all of these cells, so not compared here: {_listed(matched.left_out)}."
        )
    return Verdict(
        tuple(sentence for sentence in sentences if sentence),
        notes,
        [_tally(by_series[series], labels[series]) for series in ranked],
    )


def tell_emergence(curve: GeneralCurve) -> str:
    """Return a sentence on whether and where the score jumps with general tokens."""
    found = curve.emergence
    flat = f"{_is(found.p_flat)} for equal scores"
    if found.shape == "flat":
        return f"{curve.name}: general tokens make no clear difference ({flat})."
    moved = "rises" if found.rises else "falls"
    if found.shape == "gradual":
        return (
            f"{curve.name}: the score {moved} with general tokens ({flat}), but a jump cannot be "
            f"distinguished from a smooth curve ({_is(found.p_gradual)})."
        )
    return (
        f"{curve.name}: the score {moved} at once, by {signed(found.height)} points (95% interval "
        f"{interval(found.low, found.high)}), between {number(found.before)} and "
        f"{number(found.after)} general tokens (95%: between {number(found.earliest)} and "
        f"{number(found.latest)}); {flat}, {_is(found.p_gradual)} for a smooth curve."
    )


def tell_items(items: ItemChanges, emergence: Emergence) -> str:
    """Return two sentences on how many test items change at the jump and elsewhere."""
    moved = items.at_jump + items.elsewhere + items.gradually
    part = f" ({share(items.at_jump / moved)})" if moved else ""
    return (
        f"{moved} items become {'right' if emergence.rises else 'wrong'} and stay so: "
        f"{items.at_jump}{part} at once between {number(emergence.before)} and "
        f"{number(emergence.after)} general tokens, {items.elsewhere} at once elsewhere, "
        f"{items.gradually} gradually. {items.against} change once the other way, {items.wavering} "
        f"more than once; {items.always} are right and {items.never} wrong at all sizes."
    )


def _net(found: Sequence[Comparison]) -> int:
    """Return the number of clear gains minus the number of clear losses."""
    return sum((1 if c.difference > 0 else -1) for c in found if is_clear(c))


def _merit(found: Sequence[Comparison]) -> tuple[int, int, int, float]:
    tasks = len({comparison.task for comparison in found})
    return _net(found), tasks, len(found), fmean(comparison.difference for comparison in found)


def _tally(found: Sequence[Comparison], label: str) -> Tally:
    better, worse = _clear(found)
    unclear = len(found) - len(better) - len(worse)
    difference = fmean(c.difference for c in found)
    return Tally(label, len(better), unclear, len(worse), difference)


def _clear(found: Sequence[Comparison]) -> tuple[list[Comparison], list[Comparison]]:
    """Return the clear gains and the clear losses."""
    clear = [comparison for comparison in found if is_clear(comparison)]
    return [c for c in clear if c.difference > 0], [c for c in clear if c.difference < 0]


def _is_tell(summary: Summary, matched: Matched) -> bool:
    return any(
        series_of(point) == matched.main.series and point.method.startswith("tell")
        for point in summary.points
    )


def _score(matched: Matched, compared: Sequence[Comparison], tell: bool) -> str:
    main, reference, gap = matched.main, matched.reference, matched.difference
    better, worse = _clear(compared)
    cells = "the 1 cell" if matched.cells == 1 else f"{matched.cells} cells"
    tasks = "1 task" if len(matched.tasks) == 1 else f"{len(matched.tasks)} tasks"
    named = main.label if not tell or "tell" in main.label else f"{main.label} (TELL)"
    clear = (
        f"clearly better in {len(better)} and clearly worse in {len(worse)}"
        if better or worse
        else "no clear difference in any"
    )
    told = "" if tell else f"TELL did not run on the same cells as {reference.label}. "
    return told + (
        f"Over {cells} of {tasks} matched by task, size and seed, {named} scores "
        f"{score(main.score.mean)} against {score(reference.score.mean)} for {reference.label} "
        f"({signed(gap.mean)} points, 95% interval {interval(gap.low, gap.high)}; {clear} of "
        f"{len(compared)} single comparisons)."
    )


def _beside(matched: Matched) -> str:
    """Report forgetting and leakage; equal task scores may hide that one harms the model."""
    main, reference = matched.main, matched.reference
    told = []
    if main.change is not None and reference.change is not None:
        told.append(
            f"changes the loss on held-out general text by {signed(main.change.mean)}% against "
            f"{signed(reference.change.mean)}%"
        )
    if main.leakage is not None and reference.leakage is not None:
        told.append(
            f"answers {share(main.leakage)} of unrelated prompts in the task's format, against "
            f"{share(reference.leakage)}"
        )
    return f"It {' and '.join(told)}." if told else ""


def _cost(matched: Matched) -> str:
    main, reference = matched.main, matched.reference
    return (
        f"It trains {number(main.seconds)} s per cell against {number(reference.seconds)} s, on "
        f"{number(main.general_tokens)} general tokens against {number(reference.general_tokens)} "
        f"beside the same {number(main.task_tokens)} task tokens."
    )


def _winner(
    by_series: dict[Series, list[Comparison]],
    ranked: Sequence[Series],
    labels: dict[Series, str],
    reference: str,
) -> str:
    if not any(is_clear(one) for found in by_series.values() for one in found):
        return f"No method differs clearly from {reference} anywhere: all tie."
    most = _net(by_series[ranked[0]])
    if most <= 0:
        return f"No method is clearly ahead of {reference}."
    alike = [labels[series] for series in ranked if _net(by_series[series]) == most]
    if len(alike) > _SPELLED_OUT:
        return f"{len(alike)} methods tie for the most net clear gains, so none is the winner."
    if len(alike) > 1:
        return f"{_listed(alike)} tie for the most net clear gains, so none is the winner."
    among = f", the best of {len(ranked)} on these same test items" if len(ranked) > 1 else ""
    better, worse = _clear(by_series[ranked[0]])
    return (
        f"Most clear gains over {reference}: {alike[0]}{among} ({len(better)} better and "
        f"{len(worse)} worse of {len(by_series[ranked[0]])})."
    )


def _without_reference(summary: Summary, labels: dict[Series, str]) -> tuple[str, ...]:
    highest: list[str] = []
    lowest: list[str] = []  # of perplexity, where lower is better
    tied = []
    for task in dict.fromkeys(point.task for point in summary.points):
        points = [point for point in summary.points if point.task == task]
        lower = points[0].metric == PERPLEXITY
        first = (min if lower else max)(points, key=lambda point: point.score)
        others = [point for point in points if series_of(point) != series_of(first)]
        # Bounds that are not known are no evidence of a difference.
        if not all(p.low > first.high if lower else p.high < first.low for p in others):
            tied.append(task)
            continue
        size = "" if first.size is None else f" with {number(first.size)} task tokens"
        (lowest if lower else highest).append(
            f"{labels[series_of(first)]}{size} on {task} ({score(first.score)}, 95% interval "
            f"{interval(first.low, first.high)})"
        )
    why = f"the study has no method at the same task and size as {' or '.join(REFERENCES)}"
    if all(point.metric == PERPLEXITY for point in summary.points):
        why = "the metric is perplexity, by which methods are not compared"
    told = [f"Data saving and TELL's gain over SFT cannot be assessed: {why}."]
    if highest:
        told.append(f"Highest scores: {_listed(highest)}.")
    if lowest:
        told.append(f"Lowest perplexity: {_listed(lowest)}.")
    if tied:
        told.append(f"No method is clearly best on {_listed(tied)}.")
    return tuple(told)


def _notes(summary: Summary) -> list[str]:
    notes = []
    if _one_seed(summary):
        notes.append(
            "There is only one seed: intervals cover test-item variation only, and other seeds "
            "may differ by more."
        )
    if summary.failed:
        cells = "1 cell" if len(summary.failed) == 1 else f"{len(summary.failed)} cells"
        notes.append(f"{cells} failed; the results below exclude failed cells.")
    return notes + _not_reached(summary)


def _not_reached(summary: Summary) -> list[str]:
    """Return a note for each task whose cells used far fewer task tokens than their sizes."""
    used: dict[str, dict[int, float]] = {}
    for point in summary.points:
        if point.size is not None:
            of_task = used.setdefault(point.task, {})
            of_task[point.size] = max(of_task.get(point.size, 0), point.task_tokens)
    notes = []
    for task, by_size in used.items():
        # An example that does not fit is left out, so most sizes are not reached exactly.
        short = [size for size in sorted(by_size) if by_size[size] < _REACHED * size]
        if short:
            most = number(max(by_size[size] for size in short))
            sizes = _listed([number(size) for size in short])
            notes.append(f"On {task}, the cells of {sizes} task tokens used at most {most}.")
    return notes


def _one_seed(summary: Summary) -> bool:
    """Return whether no method that trains on task data ran with several seeds."""
    return max((p.seeds for p in summary.points if p.size is not None), default=1) == 1


def _is(p: float) -> str:
    """Format a p-value as `p = 0.012`, with non-breaking spaces."""
    shown = p_value(p)
    return f"p\u00a0{shown}" if shown.startswith("<") else f"p\u00a0=\u00a0{shown}"


def _listed(parts: Sequence[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
