"""Verdict of a study: two or three sentences that claim no more than its numbers support."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from telltune.html_report.formats import interval, number, p_value, score, share, signed
from telltune.study.report.series import label_series, series_of
from telltune.study.statistics.summary import REFERENCES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from telltune.study.report.series import Series
    from telltune.study.statistics.emergence import Emergence
    from telltune.study.statistics.item_changes import GeneralCurve, ItemChanges
    from telltune.study.statistics.summary import Comparison, Summary

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
"""Maximum number of items listed in a sentence; longer lists show only the extremes."""


@dataclass(frozen=True)
class Tally:
    """Comparisons of a method with the reference, counted over all tasks and sizes.

    Attributes:
        label: Label of the method.
        better: Number of comparisons in which the method is clearly better.
        unclear: Number of comparisons without a clear difference.
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
        sentences: Best method against the reference, TELL, and data saving. One of them names TELL.
        notes: Caveats.
        tallies: One tally per method, the best first.
    """

    sentences: tuple[str, ...]
    notes: list[str]
    tallies: list[Tally]


def reference_of(summary: Summary) -> str | None:
    """Return the reference of comparisons: SFT with the anchor if the study has it, else SFT."""
    known = {comparison.against for comparison in summary.comparisons}
    return next((name for name in reversed(REFERENCES) if name in known), None)


def is_clear(comparison: Comparison) -> bool:
    """Return whether the difference is significant after Holm's correction."""
    return comparison.p_adjusted < _LEVEL


def give_verdict(summary: Summary) -> Verdict:
    """Report the best method against the reference, the result of TELL, and the data saving.

    The best method has the most clear gains minus clear losses over all tasks and sizes. Ties are
    broken by the number of tasks, then of comparisons, then by the mean difference. It is reported
    at the size with the most net gains, the smallest of equals. If no difference is clear, all
    methods tie: no winner is named, and the differences of TELL are reported.
    """
    reference = reference_of(summary)
    tells = {series_of(point) for point in summary.points if point.method == "tell"}
    labels = {
        series: f"{label} (TELL)" if series in tells and not label.startswith("tell") else label
        for series, label in label_series(summary.points).items()
    }
    if reference is None:
        return Verdict(_without_reference(summary, labels), _notes(summary, labels, []), [])
    by_series: dict[Series, list[Comparison]] = {}
    for comparison in summary.comparisons:
        if comparison.against == reference:
            by_series.setdefault(series_of(comparison), []).append(comparison)
    ranked = sorted(by_series, key=lambda series: _merit(by_series[series]), reverse=True)
    tell = next((series for series in ranked if series in tells), None)
    tie = not any(is_clear(one) for found in by_series.values() for one in found)
    best = tell if tie and tell is not None else ranked[0]
    size = _best_size(by_series[best])
    nearest = best == ranked[0]
    sentences = [_first(by_series[best], size, labels[best], reference, nearest=nearest)]
    if tell is None:
        sentences.append(f"TELL did not run at the same size of a task as {reference}.")
    elif tell != best:
        there = _best_size(by_series[tell])
        standing = _standing([c for c in by_series[tell] if c.size == there], f" than {reference}")
        sentences.append(f"{labels[tell]} with {number(there)} task tokens is {standing}.")
    sentences.append(_second(summary, best, size, reference, labels[best]))
    return Verdict(
        tuple(sentences),
        _notes(summary, labels, [best, *([tell] if tell else [])])
        + _caution(by_series, ranked, labels, tie=tie),
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


def _best_size(found: Sequence[Comparison]) -> int:
    sizes = sorted({comparison.size for comparison in found})
    return max(sizes, key=lambda size: _net([c for c in found if c.size == size]))


def _caution(
    by_series: dict[Series, list[Comparison]],
    ranked: Sequence[Series],
    labels: dict[Series, str],
    *,
    tie: bool,
) -> list[str]:
    """Return the caveat that the best of several methods was selected on the same items."""
    if tie or len(ranked) == 1:
        return []
    most = _net(by_series[ranked[0]])
    alike = [labels[series] for series in ranked if _net(by_series[series]) == most]
    found = (
        f"{alike[0]} was chosen as the best of {len(ranked)} methods on these same test items"
        if len(alike) == 1
        else f"{_listed(alike)} tie for the most net clear gains, so none is the winner"
    )
    adjusted = (
        "p-values are adjusted over the methods at one size of one task, not over sizes and tasks"
    )
    return [f"{found}; {adjusted}."]


def _tally(found: Sequence[Comparison], label: str) -> Tally:
    better, worse = _clear(found)
    unclear = len(found) - len(better) - len(worse)
    difference = fmean(c.difference for c in found)
    return Tally(label, len(better), unclear, len(worse), difference)


def _clear(found: Sequence[Comparison]) -> tuple[list[Comparison], list[Comparison]]:
    """Return the clear gains and the clear losses."""
    clear = [comparison for comparison in found if is_clear(comparison)]
    return [c for c in clear if c.difference > 0], [c for c in clear if c.difference < 0]


def _first(
    found: Sequence[Comparison], size: int, label: str, reference: str, *, nearest: bool
) -> str:
    there = [comparison for comparison in found if comparison.size == size]
    elsewhere = [comparison for comparison in found if comparison.size != size]
    clear = bool(_clear(there)[0])
    standing = _standing(there, f" than {reference}" if clear else "")
    if clear:
        text = f"With {number(size)} task tokens, {label} is {standing}"
    else:
        told = f"{label} with {number(size)} task tokens"
        text = f"No method is clearly ahead of {reference}: "
        text += f"the closest, {told}, is" if nearest else f"all tie, and {told} is"
        text += f" {standing}"
    if elsewhere:
        better, worse = _clear(elsewhere)
        text += (
            f"; at its other sizes it is clearly better in {len(better)} and clearly worse in "
            f"{len(worse)} of {len(elsewhere)} comparisons"
        )
    return f"{text}."


def _standing(there: Sequence[Comparison], than: str) -> str:
    """Describe a method at one size, e.g. "clearly better than sft on 2 of 3 tasks: …"."""
    better, worse = _clear(there)
    if better:
        text = f"clearly better{than} on {len(better)} of {_tasks(len(there))}: "
        text += _differences(better)
        return text + (
            f"; it is clearly worse on {len(worse)}: {_differences(worse)}" if worse else ""
        )
    if worse:
        return f"clearly worse{than} on {len(worse)} of {_tasks(len(there))}: {_differences(worse)}"
    return f"neither clearly better nor worse{than}: {_differences(there)}"


def _second(summary: Summary, best: Series, size: int, reference: str, label: str) -> str:
    saved = sorted(
        (s for s in summary.saved if (s.against, s.size, series_of(s)) == (reference, size, best)),
        key=lambda saved: saved.data_saving_factor,
    )
    factors = [f"{s.text} on {s.task}" for s in saved]
    if len(factors) > _SPELLED_OUT:
        factors = [f"from {factors[0]} to {factors[-1]}"]
    caution = "; one seed: this holds for these runs only" if _one_seed(summary) else ""
    return (
        f"{label}'s data-saving factor at this size ({reference} task tokens needed to match one "
        f"of its own) is {_listed(factors)} (95% intervals{caution})."
    )


def _without_reference(summary: Summary, labels: dict[Series, str]) -> tuple[str, ...]:
    clear, tied = [], []
    for task in dict.fromkeys(point.task for point in summary.points):
        points = [point for point in summary.points if point.task == task]
        first = max(points, key=lambda point: point.score)
        others = [point for point in points if series_of(point) != series_of(first)]
        if others and first.low <= max(point.high for point in others):
            tied.append(task)
            continue
        size = "" if first.size is None else f" with {number(first.size)} task tokens"
        clear.append(
            f"{labels[series_of(first)]}{size} on {task} ({score(first.score)}, 95% interval "
            f"{interval(first.low, first.high)})"
        )
    beside = f"no method at the same task and size as {' or '.join(REFERENCES)}"
    told = [f"Data saving and TELL's gain over SFT cannot be assessed: the study has {beside}."]
    if clear:
        told.append(f"Highest scores: {_listed(clear)}.")
    if tied:
        told.append(f"No method is clearly highest on {_listed(tied)}.")
    return tuple(told)


def _notes(summary: Summary, labels: dict[Series, str], told: Sequence[Series]) -> list[str]:
    notes = _beside(summary, labels, told)
    if _one_seed(summary):
        notes.append(
            "There is only one seed: intervals cover test-item variation only, and other seeds "
            "may differ by more."
        )
    if summary.failed:
        cells = "1 cell" if len(summary.failed) == 1 else f"{len(summary.failed)} cells"
        notes.append(f"{cells} failed; the results below exclude failed cells.")
    return notes


def _beside(summary: Summary, labels: dict[Series, str], told: Sequence[Series]) -> list[str]:
    """Report forgetting and leakage; equal task scores may hide that one method harms the model.

    Means are over matched cells only: the same task, size and seed for all reported methods. A
    method that shares no cell with the others is named as left out.

    Args:
        summary: Summary of the study.
        labels: Labels of the series.
        told: Series to report in addition to the references if there are too many to report all.
    """
    cells: dict[Series, dict[tuple[str, int, int], dict[str, float]]] = {}
    for point in summary.points:
        for seed, found in (point.by_seed or {0: point.forgetting}).items():
            if point.size is not None and "general_nll_after" in found:
                cells.setdefault(series_of(point), {})[point.task, point.size, seed] = found
    references = [series for series in cells if series.name in REFERENCES]
    wanted = [series for series in dict.fromkeys([*told, *references]) if series in cells]
    if len(cells) <= _SPELLED_OUT or not wanted:
        wanted += [series for series in cells if series not in wanted][: _SPELLED_OUT - len(wanted)]
    matched: list[Series] = []
    shared: set[tuple[str, int, int]] = set()
    for series in wanted:
        both = shared & set(cells[series]) if matched else set(cells[series])
        if both:
            matched, shared = [*matched, series], both
    if not matched:
        return []

    def mean(series: Series, value: Callable[[dict[str, float]], float]) -> float:
        return fmean(value(cells[series][cell]) for cell in sorted(shared))

    changes = {
        series: mean(series, lambda cell: cell["general_nll_after"] / cell["general_nll_before"])
        for series in matched
    }
    most = sorted(matched, key=lambda series: -changes[series])
    text = "Forgetting: the loss on general examples changes by " + _listed(
        [f"{changes[series] - 1:+.0%} after {labels[series]}" for series in most]
    )
    if all("leakage_after" in cells[series][cell] for series in matched for cell in shared):
        text += "; the share of unrelated prompts answered in the task's format is " + _listed(
            [f"{mean(s, lambda cell: cell['leakage_after']):.0%} after {labels[s]}" for s in most]
        )
    count = "the 1 cell" if len(shared) == 1 else f"the {len(shared)} cells"
    apart = [labels[series] for series in wanted if series not in matched]
    more = f"; no shared cell: {_listed(apart)}" if apart else ""
    more += "; the table lists the other methods" if len(wanted) < len(cells) else ""
    return [f"{text}. (Means over {count} matched by task, size and seed{more}.)"]


def _one_seed(summary: Summary) -> bool:
    """Return whether no method that trains on task data ran with several seeds."""
    return max((p.seeds for p in summary.points if p.size is not None), default=1) == 1


def _differences(found: Sequence[Comparison]) -> str:
    """List all differences, or only the extremes; the first one explains its numbers."""
    ordered = sorted(found, key=lambda comparison: comparison.difference)
    shown = ordered if len(ordered) <= _SPELLED_OUT else [ordered[0], ordered[-1]]
    first, *others = [
        (signed(c.difference), c.task, interval(c.low, c.high), _is(c.p_adjusted)) for c in shown
    ]
    texts = ["{} points on {} (95% interval {}, {} after Holm)".format(*first)]
    texts += ["{} on {} ({}, {})".format(*other) for other in others]
    return _listed(texts) if shown == ordered else f"from {' to '.join(texts)}"


def _is(p: float) -> str:
    """Format a p-value as `p = 0.012`, with non-breaking spaces."""
    shown = p_value(p)
    return f"p\u00a0{shown}" if shown.startswith("<") else f"p\u00a0=\u00a0{shown}"


def _tasks(number: int) -> str:
    return f"{number} task" if number == 1 else f"{number} tasks"


def _listed(parts: Sequence[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
