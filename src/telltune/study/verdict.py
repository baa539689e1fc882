"""What a study comes to, in two or three sentences that say no more than its numbers do."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from telltune.pages.formats import interval, number, p_value, score, share, signed
from telltune.study.series import label_series, series_of
from telltune.study.summary import REFERENCES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from telltune.study.emergence import Emergence
    from telltune.study.item_changes import GeneralCurve, ItemChanges
    from telltune.study.series import Series
    from telltune.study.summary import Comparison, Summary

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
        sentences: Against the reference, of TELL, of saved data; TELL is named in one of them.
        notes: What to bear in mind.
        tallies: A method each, the best first.
    """

    sentences: tuple[str, ...]
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
    """Say which method did best against the reference and where, how TELL did, and what is saved.

    The method is the one with most clear gains less clear losses over all tasks and sizes (of
    those with as many, the one tried on most tasks, then at most places, then with the largest mean
    difference), at the size at which it has most (of several, the smallest). Where nothing is clear
    all methods tie: no winner is named, and TELL is the one whose differences are told.
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
    """What having looked for the best of several methods means."""
    if tie or len(ranked) == 1:
        return []
    most = _net(by_series[ranked[0]])
    alike = [labels[series] for series in ranked if _net(by_series[series]) == most]
    found = (
        f"{alike[0]} is the best of {len(ranked)} methods on these very test items"
        if len(alike) == 1
        else f"{_listed(alike)} have as many clear gains, and none of them is the winner"
    )
    adjusted = (
        "p-values are adjusted for the methods at one size of one task, not for sizes and tasks"
    )
    return [f"{found}; {adjusted}."]


def _tally(found: Sequence[Comparison], label: str) -> Tally:
    better, worse = _clear(found)
    unclear = len(found) - len(better) - len(worse)
    difference = fmean(c.difference for c in found)
    return Tally(label, len(better), unclear, len(worse), difference)


def _clear(found: Sequence[Comparison]) -> tuple[list[Comparison], list[Comparison]]:
    """The clear gains and the clear losses."""
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
        text = f"No method comes out clearly ahead of {reference}: "
        text += f"the nearest, {told}, is" if nearest else f"all tie, and {told} is"
        text += f" {standing}"
    if elsewhere:
        better, worse = _clear(elsewhere)
        text += (
            f"; at its other sizes it is clearly better in {len(better)} and clearly worse in "
            f"{len(worse)} of {len(elsewhere)} comparisons"
        )
    return f"{text}."


def _standing(there: Sequence[Comparison], than: str) -> str:
    """How a method does at one size, such as "clearly better than sft on 2 of 3 tasks: …"."""
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
    caution = "; one seed: this is said of these runs only" if _one_seed(summary) else ""
    return (
        f"{label}'s data-saving factor there, how many of {reference}'s task tokens one of its own "
        f"is worth, is {_listed(factors)} (95% intervals{caution})."
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
    beside = f"no method beside {' or '.join(REFERENCES)} at the same size of a task"
    told = [
        f"Nothing can be said about saving data, or about TELL against SFT: the study has {beside}."
    ]
    if clear:
        told.append(f"The highest scores are those of {_listed(clear)}.")
    if tied:
        told.append(f"No method is clearly highest on {_listed(tied)}.")
    return tuple(told)


def _notes(summary: Summary, labels: dict[Series, str], told: Sequence[Series]) -> list[str]:
    notes = _beside(summary, labels, told)
    if _one_seed(summary):
        notes.append(
            "There is one seed, so that intervals hold the luck of the test items only; other "
            "seeds may well differ by more."
        )
    if summary.failed:
        cells = "1 cell" if len(summary.failed) == 1 else f"{len(summary.failed)} cells"
        notes.append(f"{cells} failed, and nothing of that is in what follows.")
    return notes


def _beside(summary: Summary, labels: dict[Series, str], told: Sequence[Series]) -> list[str]:
    """What training cost elsewhere: level scores may hide that one method ruins the model.

    Means are over matched cells only: those of the same task, size and seed that all methods told
    of have. A method that shares none with the others is left out by name.

    Args:
        summary: Of the study.
        labels: What series are called.
        told: Series to tell of beside the references, where there are too many to tell of all.
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
    text = "Beside the task, the loss on general examples changes by " + _listed(
        [f"{changes[series] - 1:+.0%} after {labels[series]}" for series in most]
    )
    if all("leakage_after" in cells[series][cell] for series in matched for cell in shared):
        text += "; of unrelated prompts get an answer in the task's format " + _listed(
            [f"{mean(s, lambda cell: cell['leakage_after']):.0%} after {labels[s]}" for s in most]
        )
    count = "the 1 cell" if len(shared) == 1 else f"the {len(shared)} cells"
    apart = [labels[series] for series in wanted if series not in matched]
    more = f"; {_listed(apart)} shares no cell with them" if apart else ""
    more += "; the other methods stand in the table" if len(wanted) < len(cells) else ""
    return [
        f"{text}. (Means over {count}, of one task, size and seed, that all of them ran{more}.)"
    ]


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
