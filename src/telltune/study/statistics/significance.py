"""Significance of differences between methods, given test-item and seed variation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from telltune.errors import DataError
from telltune.evaluation.intervals import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    paired_bootstrap,
)
from telltune.study.statistics.resampling import Runs, distinct_runs, mean_over_seeds, seed_luck


@dataclass(frozen=True, slots=True)
class Spread:
    """Score of one method at one size over its seeds.

    Attributes:
        interval: Mean over seeds with its interval over items and seeds.
        deviation: Standard deviation between seeds (k - 1 in the denominator); NaN for one seed.
    """

    interval: Interval
    deviation: float
    seeds: int


def spread_over_seeds(runs: Runs, *, resamples: int = 10_000) -> Spread:
    """Compute the mean and spread over seeds."""
    scores = [run.score for run in runs]
    deviation = float(np.std(scores, ddof=1)) if len(runs) > 1 else math.nan
    luck = seed_luck([runs], resamples)[:, 0]
    interval = bootstrap_interval(mean_over_seeds(runs), resamples=resamples, luck=luck)
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
    """Compare two methods at one size by the difference of their means over seeds, a - b.

    The units are items, and they are paired: an item keeps its answers under both methods and all
    seeds. Seeds do not multiply items: three seeds of 200 items are not 600 items. Seed noise is
    drawn in addition to items (see `resampling`), for the interval and for the p-value.

    The p-value is two-sided: the probability of a difference at least as large if the methods do
    not differ. With one run each and a binary metric it is that of the exact McNemar test.
    Otherwise it is (1 + draws at least as large) / (1 + draws) by paired randomization. Each draw
    randomly swaps the two methods' answers to each item (under all seeds at once) and adds seed
    noise. For corpus metrics such as macro-F1, the metric is computed on the swapped corpora.

    Args:
        a: Runs of one method, one per seed.
        b: Runs of the other method, on the same items by the same metric. The numbers of runs may
            differ.
        binary: Whether the metric is the share of items that are right (`Metric.binary`).
        confidence: Confidence level of the interval.
        resamples: Number of draws of the bootstrap and of the randomization.
        seed: Random seed; it and the other arguments determine the result.

    Raises:
        DataError: The items or the metrics differ.
    """
    a, b = distinct_runs(a), distinct_runs(b)
    luck = seed_luck([a, b], resamples, seed)
    # Swapping needs equally many answers on both sides, so runs are repeated to match.
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
    """Return the two-sided p-value of the exact McNemar test.

    The test asks whether either run's share of the items that only one run has right is not half.

    Raises:
        DataError: The shapes differ.

    The arguments tell for each of n items whether a run is right, (n,).

    Source: McNemar (1947), with the binomial distribution instead of the chi-square.
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
    """Adjust the p-values of a family of comparisons to control the family-wise error rate.

    Source: Holm (1979).
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted
