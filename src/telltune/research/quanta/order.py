"""Steps at which quanta are learned, and agreement of training runs on their order.

A quantum is learned at the first step at which the mean probability of its tokens is half-way
from the run's initial value to the reference's final value. The step is interpolated linearly
between recorded moments. Probability is used instead of loss because an answer's first
token may start at 18 nats, half of which vanish once the model has learned the form of answers. A
quantum that a run never learns is censored: it comes after all learned quanta, and its order among
other censored quanta is unknown.

Agreement is Kendall's tau-b: the number of pairs of quanta in the same order minus the number in
opposite order, over the geometric mean of the pairs that each run orders. A pair that a run does
not order, because it learned neither quantum, counts as neither. Only orders are compared, not
steps, so runs of different lengths can be compared with one reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.research.quanta.losses import LossCurves

    Floats = NDArray[np.floating[Any]]


def learned_at(steps: NDArray[np.int64], levels: Floats, ends: Floats) -> Floats:
    """Return the step at which each level has risen half-way from its start to the end value.

    Args:
        steps: Steps of the moments, ascending, (m,).
        levels: Levels at these steps, (..., m).
        ends: End values of the reference, (...).

    Returns:
        The interpolated steps, (...): infinite if a level never reaches the half-way value, NaN if
        that value is NaN.
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
    """Return Kendall's tau-b of two orders: -1 to 1, NaN if one of them orders no pair.

    Args:
        a: Numbers that define the first order, (..., n). Infinite numbers come last and are tied;
            pairs with a NaN are skipped.
        b: Numbers that define the second order, (..., n).

    Returns:
        Tau-b of each pair of orders, (...).

    Source: Kendall (1945). If the ties are pairs whose order is hidden by censoring, this is the
    coefficient of Oakes (1982) with one censoring time per run.
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
    """Clusters of held-out tokens, with the losses of the reference run.

    Attributes:
        owners: Held-out example of each token, (tokens,).
        labels: Cluster of each token, from 0, (tokens,).
        reference: Losses of a training run on plentiful data.

    Raises:
        DataError: There are fewer than two clusters.
    """

    owners: NDArray[np.int64]
    labels: NDArray[np.int64]
    reference: LossCurves

    def __post_init__(self) -> None:
        if self.count < 2:
            raise DataError(f"an order needs at least two quanta, but there are {self.count}.")

    @property
    def count(self) -> int:
        """Number of clusters."""
        return int(self.labels.max(initial=-1)) + 1

    def probabilities(self, run: LossCurves, examples: NDArray[np.int64] | None = None) -> Floats:
        """Return the mean probability of each cluster's tokens, weighted by example.

        Args:
            run: Losses of the same tokens at m moments.
            examples: Number of times each example was drawn, (draws, examples); None for one draw
                with each example once.

        Returns:
            The probabilities, (draws, count, m); NaN if no token of a cluster was drawn.
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
        """Return the step at which a run learned each cluster, (draws, count); see `learned_at`."""
        ends = self.probabilities(self.reference, examples)[..., -1]
        return learned_at(run.steps, self.probabilities(run, examples), ends)


@dataclass(frozen=True)
class Agreement:
    """Agreement between the orders in which a run and the reference learned quanta.

    Attributes:
        learned: Step at which the run learned each quantum; infinite if it never did.
        tau: Kendall's tau-b with the reference; NaN if the run orders no pair.
        low: Lower limit of the 95% interval of `tau`.
        high: Upper limit of the 95% interval of `tau`.
        difference: `tau` minus that of the first run.
        difference_low: Lower limit of the 95% interval of `difference`.
        difference_high: Upper limit of the 95% interval of `difference`.
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
    """Compare the order in which each run learned quanta with the reference's order.

    Intervals come from a two-stage bootstrap that resamples held-out examples, with all their
    tokens, and quanta. All runs share the same draws, so that common variation cancels in
    differences.

    Args:
        quanta: Clusters of tokens and the reference.
        runs: Losses of the same tokens in each run.
        resamples: Number of bootstrap draws.
        seed: Seed of the draws; equal arguments give equal results.

    Returns:
        The agreement of each run with the reference.
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
    """Return the limits of the middle 95% of draws, or NaN if all draws are NaN."""
    known = draws[~np.isnan(draws)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)
