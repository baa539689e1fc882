"""The data-saving factor: how many SFT task tokens a method's task token is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from telltune.errors import DataError
from telltune.study.resampling import resample_runs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from telltune.evaluation.registry import Floats
    from telltune.study.resampling import Runs

__all__ = ["Saving", "monotone", "saving_factor", "tokens_to_reach"]


@dataclass(frozen=True, slots=True)
class Saving:
    """SFT task tokens needed for the score that a method reaches, divided by the tokens it used.

    The interval is one of numbers even where it runs off the sizes that were tried: `low` is 0
    where it may be less than can be told, `high` is infinite where it may be more. What is
    censored stands at the nearest factor that was tried: a `factor` of 31 with `censored` ">"
    says more than 31, a `low` of 31 says at least 31.

    Attributes:
        factor: 2 says that half of the data does.
        low: Of the confidence interval.
        high: Of the confidence interval.
        censored: ">" where SFT reaches the score at none of the sizes tried, "<" where it reaches
            it at the smallest already.
        smallest: The smallest size of SFT that was tried, as a factor.
        largest: The largest.
    """

    factor: float
    low: float
    high: float
    censored: Literal["", ">", "<"]
    smallest: float
    largest: float

    def __str__(self) -> str:
        """Such as `6.3 (3.1 to >31)`."""
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
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Saving:
    """Read off SFT's curve how many task tokens reach the score of a method.

    The curve goes through SFT's mean scores over seeds, made monotone, with straight lines on
    log tokens between the sizes. The interval holds the middle of the factors that come out when
    items and seeds are drawn again (see `resampling`), the same items for all of SFT's sizes and
    the method. As the curve is monotone these are the very factors F at which a test of "the
    method does as well as SFT with F times its tokens" would not reject, so that flat and steep
    stretches of the curve are both done justice.

    Args:
        sft: Runs of SFT by task tokens; higher scores must be better ones.
        method: Runs of the method, on the same items by the same metric.
        tokens: Task tokens that the method used.
        confidence: Of the interval.
        resamples: How often items and seeds are drawn.
        seed: The interval is a pure function of this and the other arguments.

    Raises:
        DataError: No size of SFT, tokens that are not above 0, or items that differ.
    """
    if not sft or min(*sft, tokens) <= 0:
        raise DataError("a data-saving factor needs SFT at one size at least, and tokens above 0.")
    sizes = sorted(sft)
    groups = [*(sft[size] for size in sizes), method]
    seen = [np.mean([run.score for run in runs]) for runs in groups]
    scores = np.vstack([seen, resample_runs(groups, resamples, seed)])
    weights = np.array([len(runs) for runs in groups[:-1]], dtype=np.float64)
    needed = tokens_to_reach(scores[:, -1], monotone(scores[:, :-1], weights), np.array(sizes))
    smallest, largest = sizes[0] / tokens, sizes[-1] / tokens
    factor, factors = float(needed[0]) / tokens, needed[1:] / tokens
    tail = (1 - confidence) / 2
    # Whole draws, not something between two: between a number and infinity there is nothing.
    low = min(factor, float(np.quantile(factors, tail, method="lower")))
    high = max(factor, float(np.quantile(factors, 1 - tail, method="higher")))
    return Saving(
        factor=min(max(factor, smallest), largest),
        low=min(low, largest),
        high=max(high, smallest),
        censored=">" if factor > largest else "<" if factor < smallest else "",
        smallest=smallest,
        largest=largest,
    )


def monotone(scores: Floats, weights: Floats) -> Floats:
    """The nearest curves that never fall: isotonic regression by weighted least squares.

    Written for many short curves at once (scikit-learn's and SciPy's take one a call): each value
    is the largest, over where a block may begin, of the smallest mean of a block that reaches it.

    Args:
        scores: Shape (rows, m). A curve a row.
        weights: Shape (m,), above 0.

    Returns:
        Shape (rows, m).

    Source: Barlow et al. (1972), the max-min formula; the same as pooling adjacent violators.
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
    """The least tokens at which a curve reaches a score, on straight lines over log tokens.

    Args:
        scores: Shape (rows,).
        curves: Shape (rows, m). Scores at the sizes, never falling.
        sizes: Shape (m,). Tokens, rising, above 0.

    Returns:
        Shape (rows,). Infinite where no size reaches the score, 0 where the smallest does already:
        fewer tokens might have done.
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
