"""Data-saving factor: SFT task tokens needed to match one task token of a method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from telltune.errors import DataError
from telltune.study.statistics.resampling import Runs, resample_runs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from telltune.evaluation.registry import Floats
_TAIL = (1 - 0.95) / 2


@dataclass(frozen=True, slots=True)
class Saving:
    """SFT task tokens needed for a method's score, divided by the tokens that the method used.

    The bounds are numbers even beyond the sizes that were tried: `low` is 0 if it may lie below
    them, `high` is infinite if it may lie above them. A censored value is set to the nearest factor
    that was tried: a `factor` of 31 with `censored` ">" means more than 31, and a `low` of 31 means
    at least 31.

    Attributes:
        factor: The factor; 2 means that half of the data suffices.
        censored: ">" if SFT reaches the score at no size that was tried, "<" if it reaches the
            score at the smallest size.
        smallest: Smallest size of SFT that was tried, as a factor.
        largest: Largest size of SFT that was tried, as a factor.
    """

    factor: float
    low: float
    high: float
    censored: Literal["", ">", "<"]
    smallest: float
    largest: float

    def __str__(self) -> str:
        """Return text such as `6.3 (3.1 to >31)`."""
        low = _text(self.low) if self.low > 0 else f"<{_text(self.smallest)}"
        high = _text(self.high) if self.high < math.inf else f">{_text(self.largest)}"
        return f"{self.censored}{_text(self.factor)} ({low} to {high})"


def _text(factor: float) -> str:
    return f"{factor:.{0 if factor >= 10 else 1 if factor >= 1 else 2}f}"


def saving_factor(
    sft: Mapping[float, Runs],
    method: Runs,
    tokens: float,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Saving:
    """Read the data-saving factor of a method off SFT's curve.

    The curve is the monotone fit to SFT's mean scores over seeds, linear in log tokens between the
    sizes. The interval holds the central 95% of the factors when items and seeds are resampled (see
    `resampling`), with the same items for all sizes of SFT and the method. Because the curve is
    monotone, these are the factors F for which a test of "the method equals SFT with F times its
    tokens" would not reject. The interval is therefore valid on flat and steep parts of the curve.

    Args:
        sft: Runs of SFT by task tokens; higher scores must be better.
        method: Runs of the method, on the same items by the same metric.
        tokens: Number of task tokens that the method used.
        resamples: Number of draws of items and seeds.
        seed: Random seed; it and the other arguments determine the interval.

    Raises:
        DataError: There is no size of SFT, tokens are not above 0, or the items differ.
    """
    if not sft or min(*sft, tokens) <= 0:
        raise DataError("a data-saving factor needs at least one size of SFT, and tokens above 0.")
    sizes = sorted(sft)
    groups = [*(sft[size] for size in sizes), method]
    seen = [np.mean([run.score for run in runs]) for runs in groups]
    scores = np.vstack([seen, resample_runs(groups, resamples, seed)])
    weights = np.array([len(runs) for runs in groups[:-1]], dtype=np.float64)
    needed = tokens_to_reach(scores[:, -1], monotone(scores[:, :-1], weights), np.array(sizes))
    smallest, largest = sizes[0] / tokens, sizes[-1] / tokens
    factor, factors = float(needed[0]) / tokens, needed[1:] / tokens
    # Use actual draws: interpolation between a number and infinity is undefined.
    low = min(factor, float(np.quantile(factors, _TAIL, method="lower")))
    high = max(factor, float(np.quantile(factors, 1 - _TAIL, method="higher")))
    return Saving(
        factor=min(max(factor, smallest), largest),
        low=min(low, largest),
        high=max(high, smallest),
        censored=">" if factor > largest else "<" if factor < smallest else "",
        smallest=smallest,
        largest=largest,
    )


def monotone(scores: Floats, weights: Floats) -> Floats:
    """Return the nearest nondecreasing curves: isotonic regression by weighted least squares.

    This handles many short curves at once (scikit-learn and SciPy take one per call). Each value is
    the maximum over block starts of the minimum mean over blocks that contain the value.

    Args:
        scores: Shape (rows, m). One curve per row.
        weights: Shape (m,). Weights above 0.

    Returns:
        Shape (rows, m). Nondecreasing curves.

    Source: Barlow et al. (1972), the max-min formula; equivalent to pooling adjacent violators.
    """
    points = scores.shape[-1]
    curves = np.full_like(scores, -np.inf)
    for start in range(points):
        sums = np.cumsum(scores[:, start:] * weights[start:], axis=1)
        means = sums / np.cumsum(weights[start:])
        smallest = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        np.maximum(curves[:, start:], smallest, out=curves[:, start:])
    return curves


def tokens_to_reach(scores: Floats, curves: Floats, sizes: Floats) -> Floats:
    """Return the fewest tokens at which a curve, linear in log tokens, reaches a score.

    Args:
        scores: Shape (rows,). Scores to reach.
        curves: Shape (rows, m). Scores at the sizes, nondecreasing.
        sizes: Shape (m,). Tokens, increasing, above 0.

    Returns:
        Shape (rows,). Infinite if no size reaches the score. 0 if the smallest size reaches it,
        because fewer tokens may suffice.
    """
    rows = np.arange(len(scores))
    below = (curves < scores[:, None]).sum(axis=1)
    tokens = np.where(below == 0, 0.0, np.inf)
    inside = (below > 0) & (below < len(sizes))
    rows, right = rows[inside], below[inside]
    start, end = curves[rows, right - 1], curves[rows, right]
    share = (scores[inside] - start) / (end - start)
    logs = np.log(sizes)
    tokens[inside] = np.exp(logs[right - 1] + share * (logs[right] - logs[right - 1]))
    return tokens
