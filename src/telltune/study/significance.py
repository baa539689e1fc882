"""Is one method better than another, beyond the chance of its test items and its seeds?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from telltune.errors import DataError
from telltune.evaluation.intervals import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    paired_bootstrap,
)
from telltune.study.resampling import distinct_runs, mean_over_seeds, seed_luck

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.study.resampling import Runs

__all__ = ["Spread", "compare_runs", "holm", "mcnemar", "spread_over_seeds"]


@dataclass(frozen=True, slots=True)
class Spread:
    """The score of one method at one size over its seeds.

    Attributes:
        interval: The mean over seeds, and where it may lie with other items and other seeds.
        deviation: Standard deviation between seeds (k - 1 in the denominator); NaN for one seed.
        seeds: How many there are.
    """

    interval: Interval
    deviation: float
    seeds: int


def spread_over_seeds(
    runs: Runs, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Spread:
    """Mean and spread over seeds.

    Args:
        runs: One a seed, on the same items.
        confidence: Of the interval.
        resamples: Of the bootstrap.
        seed: The interval is a pure function of this and the other arguments.
    """
    scores = [run.score for run in runs]
    deviation = float(np.std(scores, ddof=1)) if len(runs) > 1 else math.nan
    luck = seed_luck([runs], resamples, seed)[:, 0]
    interval = bootstrap_interval(mean_over_seeds(runs), confidence, resamples, seed, luck)
    return Spread(interval, deviation, len(runs))


def compare_runs(
    a: Runs,
    b: Runs,
    *,
    binary: bool = False,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two methods at one size by the means over their seeds, a - b.

    Items are the unit, and paired: an item stays with all its answers, under both methods and all
    seeds. Seeds are not items: three seeds of 200 items are not 600 items. Their luck is drawn
    beside that of the items (see `resampling`), in the interval and in the p-value.

    The p-value is two-sided: the probability, were there no difference between the methods, of
    one at least as large. With one run each and a right/wrong metric that is the exact McNemar
    test. Otherwise it is (1 + draws at least as large) / (1 + draws) by paired randomization: in
    each draw, item by item, a coin says whether the two methods change answers (under all seeds at
    once), and the luck of the seeds is added. For corpus metrics such as macro-F1 the metric of
    the swapped corpora is taken, not a mean over items.

    Args:
        a: Runs of one method, one a seed.
        b: Runs of the other, on the same items by the same metric. As many or not.
        binary: Whether the metric is the share of items that are right (`Metric.binary`).
        confidence: Of the interval.
        resamples: Of the bootstrap and of the randomization.
        seed: The result is a pure function of this and the other arguments.

    Raises:
        DataError: The items or the metrics differ.
    """
    a, b = distinct_runs(a), distinct_runs(b)
    luck = seed_luck([a, b], resamples, seed)
    # Swapping wants as many answers on either side: each run stands as often as makes it so.
    times = math.lcm(len(a), len(b))
    paired = paired_bootstrap(
        mean_over_seeds([*a] * (times // len(a))),
        mean_over_seeds([*b] * (times // len(b))),
        confidence,
        resamples,
        seed,
        luck[:, 0] - luck[:, 1],
    )
    if binary and times == 1:
        return replace(paired, p_value=mcnemar(a[0].per_item > 0, b[0].per_item > 0))
    return paired


def mcnemar(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Two-sided p-value of the exact McNemar test.

    Of the items that only one of two runs has right, is either's share other than half?

    Args:
        a: Shape (n,). Whether one run is right.
        b: Shape (n,). Whether the other is, on the same items.

    Raises:
        DataError: The shapes differ.

    Source: McNemar (1947), with the binomial in place of the chi-square.
    """
    right_a, right_b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if right_a.shape != right_b.shape:
        raise DataError(f"cannot compare {right_a.size} items with {right_b.size} pair by pair.")
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    if only_a + only_b == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of one family of comparisons, so that 0.05 bounds any false claim in it.

    Args:
        p_values: One a comparison.

    Returns:
        As many, in the same order, none smaller than it was.

    Source: Holm (1979).
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted
