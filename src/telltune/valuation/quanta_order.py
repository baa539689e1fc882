"""When each quantum is learned, and how far two trainings agree on the order.

A quantum is learned at the first step at which its tokens' mean probability is half-way from where
the run began to where the reference ended, with a straight line between two moments that were
looked at. Of probability and not of loss: an answer's first token may begin at 18 nats, and half of
those are gone once a model has learned how answers look, whichever it gives. A quantum that a run
never learns is censored: it comes after all that the run did learn, and nothing is known of its
order among others of the kind.

Agreement is Kendall's tau-b: over pairs of quanta, those in the same order less those in the
opposite one, over the geometric mean of the pairs that each of the two puts in any order. Pairs
that a run leaves open, since it learned neither, thus agree and disagree with nothing. No steps are
compared, only orders, so that trainings of different lengths can be held against one reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.valuation.quanta_losses import LossCurves

    Floats = NDArray[np.floating[Any]]

__all__ = ["Agreement", "Quanta", "compare_orders", "kendall_tau", "learned_at"]


def learned_at(steps: NDArray[np.int64], levels: Floats, ends: Floats) -> Floats:
    """The step at which each of several levels has risen half-way from its start to an end.

    Args:
        steps: Of the moments, ascending, (m,).
        levels: At them, (..., m).
        ends: Where the reference ended, (...).

    Returns:
        (...): interpolated; infinite where a level never gets there, NaN where it is not known.
    """
    half = (levels[..., 0] + ends) / 2
    risen = levels >= half[..., None]
    first = risen.argmax(axis=-1)
    before = np.maximum(first - 1, 0)
    low, high = (np.take_along_axis(levels, i[..., None], -1)[..., 0] for i in (before, first))
    rise = np.where(first > before, high - low, 1.0)
    found = steps[before] + (half - low) / rise * (steps[first] - steps[before])
    found = np.where(risen.any(axis=-1), found, np.inf)
    return np.where(np.isnan(half), np.nan, found)


def kendall_tau(a: Floats, b: Floats) -> Floats:
    """Kendall's tau-b of two orders: -1 to 1, NaN where one of them orders nothing.

    Args:
        a: Any numbers, (..., n). Infinite ones come last and are tied; a NaN is in no pair.
        b: The other order, (..., n).

    Returns:
        (...).

    Source: Kendall (1945); with ties that are pairs whose order censoring hides it is the
    coefficient of Oakes (1982), for one time of censoring in each run.
    """
    one, other = (
        (x[..., :, None] > x[..., None, :]).astype(np.float32) - (x[..., :, None] < x[..., None, :])
        for x in (a, b)
    )
    axes = (-2, -1)
    pairs = np.sqrt((one**2).sum(axes) * (other**2).sum(axes))
    tau: Floats = np.full(pairs.shape, np.nan)
    np.divide((one * other).sum(axes), pairs, out=tau, where=pairs > 0)
    return tau


@dataclass(frozen=True)
class Quanta:
    """Clusters of held-out tokens, and how the reference learned them.

    Attributes:
        owners: The held-out example of each token, (tokens,).
        labels: The cluster of each token, from 0, (tokens,).
        reference: Losses in a training on plentiful data.

    Raises:
        DataError: There are too few clusters to be in any order.
    """

    owners: NDArray[np.int64]
    labels: NDArray[np.int64]
    reference: LossCurves

    def __post_init__(self) -> None:
        if self.count < 2:
            raise DataError(f"there is no order of {self.count} quanta; two are the least.")

    @property
    def count(self) -> int:
        """Clusters."""
        return int(self.labels.max(initial=-1)) + 1

    def probabilities(self, run: LossCurves, examples: NDArray[np.int64] | None = None) -> Floats:
        """The mean probability of each cluster's tokens, as often as their examples were drawn.

        Args:
            run: Losses of the same tokens at m moments.
            examples: How often each example is there, (draws, examples); None for each once.

        Returns:
            (draws, count, m); NaN where no token of a cluster was drawn.
        """
        if examples is None:
            examples = np.ones((1, int(self.owners.max()) + 1), np.int64)
        means = np.full((len(examples), self.count, len(run.steps)), np.nan)
        for cluster in range(self.count):
            inside = self.labels == cluster
            weights = examples[:, self.owners[inside]].astype(np.float64)
            total = weights.sum(axis=1, keepdims=True)
            sums = weights @ np.exp(-run.losses[:, inside]).T
            np.divide(sums, total, out=means[:, cluster], where=total > 0)
        return means

    def learned_at(self, run: LossCurves, examples: NDArray[np.int64] | None = None) -> Floats:
        """When a training learned each cluster, (draws, count); see `learned_at`."""
        ends = self.probabilities(self.reference, examples)[..., -1]
        return learned_at(run.steps, self.probabilities(run, examples), ends)


@dataclass(frozen=True)
class Agreement:
    """How far one training learned quanta in the reference's order.

    Attributes:
        learned: The step at which it learned each quantum; infinite where it never did.
        tau: Kendall's tau-b with the reference; NaN where the run orders nothing.
        low: Of its 95% interval.
        high: Of its 95% interval.
        difference: Tau, less that of the first training.
        difference_low: Of its 95% interval.
        difference_high: Of its 95% interval.
    """

    learned: Floats
    tau: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float


def compare_orders(
    quanta: Quanta,
    runs: Sequence[LossCurves],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Agreement]:
    """Hold the order in which each training learned quanta against the reference's.

    Intervals are of a bootstrap in two stages: held-out examples are drawn again, with all their
    tokens, and of the quanta as many are drawn again as there are. Every draw is the same for all
    trainings, so that what it does to all of them cancels in a difference.

    Args:
        quanta: The clusters.
        runs: Losses of the same tokens in each training.
        resamples: How many draws.
        seed: Results are a pure function of it and the other arguments.
    """
    rng = np.random.default_rng(seed)
    items = int(quanta.owners.max()) + 1
    examples = rng.multinomial(items, np.full(items, 1 / items), resamples)
    chosen = rng.integers(0, quanta.count, (resamples, quanta.count))

    def drawn(run: LossCurves) -> Floats:
        return np.take_along_axis(quanta.learned_at(run, examples), chosen, axis=1)

    [wanted], wanted_drawn = quanta.learned_at(quanta.reference), drawn(quanta.reference)
    learned = [quanta.learned_at(run)[0] for run in runs]
    taus = [float(kendall_tau(steps, wanted)) for steps in learned]
    draws = [kendall_tau(drawn(run), wanted_drawn) for run in runs]
    return [
        Agreement(
            learned[i],
            taus[i],
            *_interval(draws[i]),
            taus[i] - taus[0],
            *_interval(draws[i] - draws[0]),
        )
        for i in range(len(runs))
    ]


def _interval(draws: Floats) -> tuple[float, float]:
    """The middle 95% of draws; NaN where there are none."""
    known = draws[~np.isnan(draws)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)
