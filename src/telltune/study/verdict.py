"""What a study comes to, in two sentences that say no more than its numbers do."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from telltune.pages.formats import interval, number, p_value, score, share, signed
from telltune.study.series import label_series, series_of
from telltune.study.summary import REFERENCES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.study.emergence import Emergence
    from telltune.study.item_changes import ItemChanges
    from telltune.study.series import Series
    from telltune.study.summary import Comparison, GeneralCurve, Summary

__all__ = [
    "Tally",
    "Verdict",
    "give_verdict",
    "is_clear",
    "reference_of",
    "tell_emergence",
    "tell_items",
]

_LEVEL = 0.05

_SPELLED_OUT = 3
"""So many tasks have their numbers in a sentence; of more, the extremes have."""


@dataclass(frozen=True)
class Tally:
    """How a method did against the reference, over all tasks and sizes.

    Attributes:
        label: The method's.
        better: Comparisons in which it is clearly better.
        unclear: In which nothing is clear.
        worse: In which it is clearly worse.
        difference: The mean of all, in points.
    """

    label: str
    better: int
    unclear: int
    worse: int
    difference: float


@dataclass(frozen=True)
class Verdict:
    """What a study comes to.

    Attributes:
        sentences: Two.
        notes: What to bear in mind.
        tallies: A method each, the best first.
    """

    sentences: tuple[str, str]
    notes: list[str]
    tallies: list[Tally]


def reference_of(summary: Summary) -> str | None:
    """What methods are held against: SFT with the anchor where the study has it, else SFT."""
    known = {comparison.against for comparison in summary.comparisons}
    return next((name for name in reversed(REFERENCES) if name in known), None)


def is_clear(comparison: Comparison) -> bool:
    """Whether the difference is beyond chance after Holm's correction."""
    return comparison.p_adjusted < _LEVEL


def give_verdict(summary: Summary) -> Verdict:
    """Say which method did best against the reference, where, and what data that saves.

    The method is the one with most clear gains less clear losses over all tasks and sizes (of
    those with as many, the one tried on most tasks, then at most places, then with the largest mean
    difference), at the size at which it has most (of several, the smallest).
    """
    reference = reference_of(summary)
    labels = label_series(summary.points)
    if reference is None:
        return Verdict(_without_reference(summary, labels), _notes(summary, labels, None), [])
    by_series: dict[Series, list[Comparison]] = {}
    for comparison in summary.comparisons:
        if comparison.against == reference:
            by_series.setdefault(series_of(comparison), []).append(comparison)
    ranked = sorted(by_series, key=lambda series: _merit(by_series[series]), reverse=True)
    best = ranked[0]
    sizes = sorted({comparison.size for comparison in by_series[best]})
    size = max(sizes, key=lambda size: _net([c for c in by_series[best] if c.size == size]))
    notes = _notes(summary, labels, labels[best])
    if len(ranked) > 1:
        notes.append(
            f"{labels[best]} is the best of {len(ranked)} methods on these very test items; "
            "p-values are adjusted for the methods at one size of one task, not for sizes and "
            "tasks."
        )
    return Verdict(
        (
            _first(by_series[best], size, labels[best], reference),
            _second(summary, best, size, reference),
        ),
        notes,
        [_tally(by_series[series], labels[series]) for series in ranked],
    )


def tell_emergence(curve: GeneralCurve) -> str:
    """Whether a score jumps with general tokens, and where, in a sentence."""
    found = curve.emergence
    flat = f"{_is(found.p_flat)} for scores that are all one"
    if found.shape == "flat":
        return f"{curve.name}: general tokens make no clear difference ({flat})."
    moved = "rises" if found.rises else "falls"
    if found.shape == "gradual":
        return (
            f"{curve.name}: the score {moved} with general tokens ({flat}), but a jump cannot be "
            f"told from a steady course ({_is(found.p_gradual)})."
        )
    return (
        f"{curve.name}: the score {moved} at once, by {signed(found.height)} points (95% interval "
        f"{interval(found.low, found.high)}), between {number(found.before)} and "
        f"{number(found.after)} general tokens (95%: between {number(found.earliest)} and "
        f"{number(found.latest)}); {flat}, {_is(found.p_gradual)} for a steady course."
    )


def tell_items(items: ItemChanges, emergence: Emergence) -> str:
    """How many test items change at the jump, and how many otherwise, in two sentences."""
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
    """Clear gains less clear losses."""
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
    """The clear gains and the clear losses."""
    clear = [comparison for comparison in found if is_clear(comparison)]
    return [c for c in clear if c.difference > 0], [c for c in clear if c.difference < 0]


def _first(found: Sequence[Comparison], size: int, label: str, reference: str) -> str:
    there = [comparison for comparison in found if comparison.size == size]
    elsewhere = [comparison for comparison in found if comparison.size != size]
    better, worse = _clear(there)
    if better:
        text = (
            f"With {number(size)} task tokens, {label} is clearly better than {reference} on "
            f"{len(better)} of {_tasks(len(there))}: {_differences(better)}"
        )
        text += f"; it is clearly worse on {len(worse)}: {_differences(worse)}" if worse else ""
    else:
        text = (
            f"No method comes out clearly ahead of {reference}: the nearest, {label} with "
            f"{number(size)} task tokens, is "
        )
        text += (
            f"clearly worse on {len(worse)} of {_tasks(len(there))}: {_differences(worse)}"
            if worse
            else f"neither clearly better nor worse: {_differences(there)}"
        )
    if elsewhere:
        better, worse = _clear(elsewhere)
        text += (
            f"; at its other sizes it is clearly better in {len(better)} and clearly worse in "
            f"{len(worse)} of {len(elsewhere)} comparisons"
        )
    return f"{text}."


def _second(summary: Summary, best: Series, size: int, reference: str) -> str:
    saved = sorted(
        (s for s in summary.saved if (s.against, s.size, series_of(s)) == (reference, size, best)),
        key=lambda saved: saved.data_saving_factor,
    )
    factors = [f"{s.text} on {s.task}" for s in saved]
    if len(factors) > _SPELLED_OUT:
        factors = [f"from {factors[0]} to {factors[-1]}"]
    caution = "; one seed: this is said of these runs only" if _one_seed(summary) else ""
    return (
        f"Its data-saving factor there, how many of {reference}'s task tokens one of its own is "
        f"worth, is {_listed(factors)} (95% intervals{caution})."
    )


def _without_reference(summary: Summary, labels: dict[Series, str]) -> tuple[str, str]:
    best = []
    for task in dict.fromkeys(point.task for point in summary.points):
        point = max((p for p in summary.points if p.task == task), key=lambda p: p.score)
        size = "" if point.size is None else f" with {number(point.size)} task tokens"
        best.append(
            f"{labels[series_of(point)]}{size} on {task} ({score(point.score)}, 95% interval "
            f"{interval(point.low, point.high)})"
        )
    nothing = (
        "Nothing can be said about saving data: the study has no method beside "
        f"{' or '.join(REFERENCES)} at the same size of a task."
    )
    return nothing, f"The highest scores are those of {_listed(best)}."


def _notes(summary: Summary, labels: dict[Series, str], best: str | None) -> list[str]:
    notes = _beside(summary, labels, best)
    if _one_seed(summary):
        notes.append(
            "There is one seed, so that intervals hold the luck of the test items only; other "
            "seeds may well differ by more."
        )
    if summary.failed:
        cells = "1 cell" if len(summary.failed) == 1 else f"{len(summary.failed)} cells"
        notes.append(f"{cells} failed, and nothing of that is in what follows.")
    return notes


def _beside(summary: Summary, labels: dict[Series, str], best: str | None) -> list[str]:
    """What training cost elsewhere: level scores may hide that one method ruins the model.

    Of many methods, told of the best and of those that it is held against.
    """
    changes: dict[str, list[float]] = {}
    leaks: dict[str, list[float]] = {}
    for point in summary.points:
        found, label = point.forgetting, labels[series_of(point)]
        if point.size is None or "general_nll_after" not in found:
            continue
        change = found["general_nll_after"] / found["general_nll_before"] - 1
        changes.setdefault(label, []).append(change)
        if "leakage_after" in found:
            leaks.setdefault(label, []).append(found["leakage_after"])
    if not changes:
        return []
    most = sorted(changes, key=lambda label: -fmean(changes[label]))
    others = ""
    if len(most) > _SPELLED_OUT:
        few = [label for label in most if label in (best, *REFERENCES)] or most[:_SPELLED_OUT]
        others = "; the other methods stand in the table" if len(few) < len(most) else ""
        most = few
    text = "Beside the task, the loss on general examples changes by " + _listed(
        [f"{fmean(changes[label]):+.0%} after {label}" for label in most]
    )
    if leaks:
        text += "; of unrelated prompts get an answer in the task's format " + _listed(
            [f"{fmean(leaks[label]):.0%} after {label}" for label in most if label in leaks]
        )
    return [f"{text}. (Means over tasks and sizes{others}.)"]


def _one_seed(summary: Summary) -> bool:
    """Whether no method that trains on task data ran with several."""
    return max((p.seeds for p in summary.points if p.size is not None), default=1) == 1


def _differences(found: Sequence[Comparison]) -> str:
    """In full, or from the least to the largest; the first says what its numbers are."""
    ordered = sorted(found, key=lambda comparison: comparison.difference)
    shown = ordered if len(ordered) <= _SPELLED_OUT else [ordered[0], ordered[-1]]
    first, *others = [
        (signed(c.difference), c.task, interval(c.low, c.high), _is(c.p_adjusted)) for c in shown
    ]
    texts = ["{} points on {} (95% interval {}, {} after Holm)".format(*first)]
    texts += ["{} on {} ({}, {})".format(*other) for other in others]
    return _listed(texts) if shown == ordered else f"from {' to '.join(texts)}"


def _is(p: float) -> str:
    """Such as `p = 0.012`, which no line break tears apart."""
    shown = p_value(p)
    return f"p\u00a0{shown}" if shown.startswith("<") else f"p\u00a0=\u00a0{shown}"


def _tasks(number: int) -> str:
    return f"{number} task" if number == 1 else f"{number} tasks"


def _listed(parts: Sequence[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
