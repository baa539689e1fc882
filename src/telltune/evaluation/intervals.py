"""Confidence intervals of scores, and paired comparisons of two systems.

All functions work on a `Scored`, so a resample costs one row of a matrix product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from telltune.errors import DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from telltune.evaluation.registry import Floats, Scored

    _Draw = Callable[[int, int, int], Iterator[Floats]]

# Number of values in a block of resamples: 32 MB for any size of the test set.
_BLOCK = 4_000_000

# Scores closer than this are equal up to the order of summation.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Interval:
    """A score and its confidence interval, in the units of the score.

    The bounds are NaN if all resamples score the same on an unbounded scale.
    """

    score: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Score of system a minus score of b on the same items, its interval, and two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


def resample_scores(systems: Sequence[Scored], resamples: int = 2000, seed: int = 0) -> Floats:
    """Return the scores of systems on bootstrap samples of the test items.

    Args:
        systems: Scores of m systems on the same n items, in the same order.
        resamples: Number of bootstrap samples.
        seed: Random seed; the same arguments give the same scores.

    Returns:
        Shape (resamples, m). All systems in a row are scored on the same sample of items.

    Raises:
        DataError: There are no items, or the systems were not scored on the same items.
        RecipeError: `resamples` is out of range.
    """
    items = len(systems[0])
    _check(items, resamples=resamples)
    for system in systems:
        if len(system) != items:
            raise DataError(
                f"cannot compare {items} items with {len(system)} items; score all systems on the "
                f"same test examples"
            )
    columns = np.hstack([system.statistics for system in systems])
    ends = np.cumsum([system.statistics.shape[1] for system in systems])[:-1]

    def score(counts: Floats) -> Floats:
        sums = np.split(counts @ columns, ends, axis=1)
        return np.column_stack([one.reduce(of) for one, of in zip(systems, sums, strict=True)])

    return _concatenate(score(counts) for counts in _random(_counts, items, resamples, seed))


def move_within(scores: Floats, luck: Floats | float, ends: tuple[float, float]) -> Floats:
    """Add random deviations to scores without leaving the scale.

    A normal or Student's t distribution around a score of 95 reaches beyond 100. Each score is
    therefore moved by room x tanh(luck / room), where room is the distance to the end of the scale
    in that direction. If room is large, this is nearly the deviation itself.

    Args:
        scores: Scores of any shape, within the ends.
        luck: Deviations of the same shape, in the units of the score.
        ends: Lowest and highest possible score; may be infinite.
    """
    luck = np.broadcast_to(luck, scores.shape)
    room = np.where(luck > 0, ends[1] - scores, scores - ends[0])
    limited = np.isfinite(room)
    # A minimum above 0 keeps the division defined.
    room = np.maximum(np.where(limited, room, 1.0), 1e-12)
    moved: Floats = scores + np.where(limited, room * np.tanh(luck / room), luck)
    return np.clip(moved, *ends)  # Rounding could exceed the ends.


def bootstrap_interval(
    scored: Scored,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    luck: Floats | float = 0.0,
) -> Interval:
    """Return the percentile bootstrap interval of a corpus score over resampled items.

    If every resample scores the same (one item, all right, all wrong), the bootstrap interval would
    have zero width. Instead, let u be the upper Wilson bound of 0 in n. The interval then extends
    from the score by a fraction u of the distance to either end of the scale. For a right/wrong
    metric this is Wilson's interval: 0 of 200 right gives 0 to 1.9.

    Args:
        scored: Result of a metric on n items.
        confidence: Confidence level of the interval, between 0 and 1.
        resamples: Number of bootstrap samples.
        seed: Random seed; the same arguments give the same interval.
        luck: Shape (resamples,). Deviations from sources other than the items, such as the training
            seed. See `move_within`.

    Raises:
        DataError: There are no items.
        RecipeError: `confidence` or `resamples` is out of range.

    Source: Efron and Tibshirani (1993), chapter 13.
    """
    _check(len(scored), confidence, resamples)
    draws = resample_scores([scored], resamples, seed)[:, 0]
    moved = move_within(draws, luck, scored.ends)
    low, high = _bounds(moved, scored.score, len(scored), confidence, scored.ends)
    return Interval(scored.score, low, high)


def paired_bootstrap(
    a: Scored,
    b: Scored,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    luck: Floats | float = 0.0,
) -> PairedDifference:
    """Compare two systems by one metric on the same items, in the same order.

    The interval is the percentile bootstrap of the difference a - b over resampled items. It is
    widened as in `bootstrap_interval` if all resamples agree. The p-value is that of paired
    approximate randomization: the probability of a difference at least this large if the two
    answers to each item were swapped at random. Unlike a bootstrap p-value it stays valid for few
    items: one item that only one system has right gives 1. For right/wrong metrics it approximates
    the exact McNemar test. It is never below 1 / (resamples + 1).

    Args:
        a: Result of a metric for system a.
        b: Result of the same metric for system b, against the same references.
        confidence: Confidence level of the interval, between 0 and 1.
        resamples: Number of bootstrap samples and of random swaps.
        seed: Random seed; the same arguments give the same result.
        luck: Shape (resamples,). Deviations from sources other than the items.

    Raises:
        DataError: There are no items, or a and b were not scored on the same items.
        RecipeError: `confidence` or `resamples` is out of range.

    Source: Koehn (2004) for the interval; Riezler and Maxwell (2005), section 3, for the p-value.
    """
    _check(len(a), confidence, resamples)
    if a.statistics.shape != b.statistics.shape:
        raise DataError(
            f"cannot compare {len(a)} items with {len(b)} items, or scores of different metrics; "
            f"score both systems with one metric on the same test examples"
        )
    difference = a.score - b.score
    draws = resample_scores([a, b], resamples, seed)
    moves = (c @ (b.statistics - a.statistics) for c in _random(_coins, len(a), resamples, seed))
    swapped = _concatenate(
        a.reduce(a.statistics.sum(axis=0) + moved) - b.reduce(b.statistics.sum(axis=0) - moved)
        for moved in moves
    )
    as_large = int((np.abs(swapped + luck) >= abs(difference) - _ROUNDING).sum())
    ends = a.ends[0] - b.ends[1], a.ends[1] - b.ends[0]
    moved = move_within(draws[:, 0] - draws[:, 1], luck, ends)
    low, high = _bounds(moved, difference, len(a), confidence, ends)
    return PairedDifference(difference, low, high, (1 + as_large) / (1 + resamples))


def _check(items: int, confidence: float = 0.95, resamples: int = 1) -> None:
    if items == 0:
        raise DataError("an interval needs at least one item, but there are no scored items")
    if not 0 < confidence < 1:
        raise RecipeError(f"confidence must be between 0 and 1, such as 0.95, not {confidence}")
    if resamples < 1:
        raise RecipeError(f"resamples must be at least 1, such as 2000, not {resamples}")


def _blocks(items: int, resamples: int) -> Iterator[int]:
    size = max(1, _BLOCK // items)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _random(draw: _Draw, items: int, resamples: int, seed: int) -> Iterable[Floats]:
    """Return blocks of random values, of shape (rows, items), from `_counts` or `_coins`.

    A single block is kept, since a report needs the same values for each of its scores.
    """
    one = items * resamples <= _BLOCK
    return _kept(draw, items, resamples, seed) if one else draw(items, resamples, seed)


@lru_cache(maxsize=3)
def _kept(draw: _Draw, items: int, resamples: int, seed: int) -> tuple[Floats, ...]:
    return tuple(draw(items, resamples, seed))


def _counts(items: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield how often each resample drew each item."""
    rng = np.random.default_rng(seed)
    for rows in _blocks(items, resamples):
        # Drawing indices and counting them is many times faster than rng.multinomial.
        drawn = rng.integers(0, items, size=(rows, items))
        drawn += items * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * items)
        yield counts.reshape(rows, items).astype(np.float64)


def _coins(items: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield 1 for a random half of the items and 0 for the others."""
    # A separate random stream keeps the swaps independent of the resamples.
    rng = np.random.default_rng([seed, 1])
    for rows in _blocks(items, resamples):
        # rng.integers draws small integers in groups, so the p-value would depend on the block
        # size.
        yield (rng.random(size=(rows, items)) < 0.5).astype(np.float64)


def _concatenate(blocks: Iterator[Floats]) -> Floats:
    return np.concatenate(list(blocks))


def _bounds(
    draws: Floats, value: float, items: int, confidence: float, ends: tuple[float, float]
) -> tuple[float, float]:
    if np.ptp(draws) > _ROUNDING:
        tail = (1 - confidence) / 2
        low, high = np.quantile(draws, [tail, 1 - tail])
        # Corpus metrics are biased in small resamples. The interval must still contain the score.
        return min(float(low), value), max(float(high), value)
    if not np.isfinite(ends).all():
        return math.nan, math.nan
    # Wilson's bound in closed form, without SciPy's statistics, which take long to import.
    squared = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    unseen = squared / (items + squared)
    return value - unseen * (value - ends[0]), value + unseen * (ends[1] - value)
