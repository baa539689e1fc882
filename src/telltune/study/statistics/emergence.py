"""Test for a jump in the score as general tokens grow at fixed task data, and locate it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from telltune.errors import DataError
from telltune.study.statistics.resampling import Runs, resample_runs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from telltune.evaluation.registry import Floats

# Steepest slope that still counts as smooth: a logistic curve with this slope over log tokens
# needs nine times the tokens (exp(ln(81) / 2)) to go from a tenth to nine tenths of its rise.
_SLOPE = 2.0
# If sizes lie closer together, a smooth rise may still take as few as two intervals
# (ln(81) = 4.4 units of a logistic curve's argument).
_LEAST_STEP = 2.2
_LEVEL = 0.05
"""Significance level of the tests."""
_TAIL = (1 - 0.95) / 2


@dataclass(frozen=True, slots=True)
class Emergence:
    """Shape of the score as a function of general tokens.

    Attributes:
        shape: "flat" if all scores may be equal, "gradual" if a smooth curve may explain them, else
            "jump".
        before: General tokens of the last size before the best-fitting jump.
        after: General tokens of the first size after this jump.
        earliest: Lower end of the confidence interval of the jump's place, in general tokens.
        latest: Upper end of this interval.
        height: Mean score after the jump minus the mean score before it; negative for a fall.
        low: Lower bound of the confidence interval of the height of a jump at this place.
        high: Upper bound of the same interval.
        p_flat: Probability of scores that vary at least as much if all true scores are equal.
        p_gradual: Upper bound on the probability of a rise at least as concentrated if the curve is
            smooth. It is 1 if only one size lies before or after the place, because a curve that
            levels off or sets in looks the same there.
    """

    shape: Literal["flat", "gradual", "jump"]
    before: float
    after: float
    earliest: float
    latest: float
    height: float
    low: float
    high: float
    p_flat: float
    p_gradual: float

    @property
    def rises(self) -> bool:
        """Whether the score rises at the jump."""
        return self.height >= 0


def find_jump(
    by_general: Mapping[float, Runs],
    task_tokens: float,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Emergence:
    """Fit one jump to the scores by least squares, and test it against flat and smooth curves.

    A jump has two levels and a place between two sizes. There are two tests:

    - **Flat**: the best jump explains more of the scores' sum of squares than item and seed
      variation (see `resample_runs`) produces from equal scores. Each draw also searches all
      places.
    - **Smooth**: the interval of the jump contains more of the rise than the same interval of any
      smooth curve. A curve is smooth if it rises in each interval at most R times as much as
      outside of it: from the mean of the sizes before to its start, and from its end to the mean
      of the sizes after. R is the largest such ratio of a logistic curve whose rise from a tenth
      to nine tenths takes nine times the tokens, or two intervals if that is more. Straight lines
      over log tokens, power laws, saturating exponentials and logistic curves up to this slope are
      smooth. "Inside minus R times outside" is linear in the scores and at most 0 for smooth
      curves. The test thus needs no fit and is conservative. Each draw takes the maximum over all
      places, which corrects for the search.

    Each p-value is (1 + draws at least as large) / (1 + draws). `benchmarks/emergence.py` measures
    how often the tests report a jump on smooth curves and on real jumps.

    Args:
        by_general: Runs of a method by general tokens, with the same task data and items.
        task_tokens: Number of task tokens.
        resamples: Number of draws of items and seeds.
        seed: Random seed; it and the other arguments determine the result.

    Raises:
        DataError: There are fewer than four sizes or no task tokens, or the items differ.
    """
    if len(by_general) < 4 or task_tokens <= 0:
        raise DataError(
            f"a jump needs at least four sizes of general data and task tokens above 0, "
            f"not {len(by_general)} and {task_tokens:g}."
        )
    sizes = sorted(by_general)
    groups = [by_general[size] for size in sizes]
    seen = np.array([np.mean([run.score for run in runs]) for runs in groups])
    draws = resample_runs(groups, resamples, seed)
    noise = draws - draws.mean(axis=0)

    jumps = _jumps(len(sizes))
    p_flat = _p_value(((noise @ jumps) ** 2).max(axis=1), float(((seen @ jumps) ** 2).max()))
    # Rounding makes the first of equally good places win.
    place = int(np.argmax(np.round((seen @ jumps) ** 2, 9)))
    height = float(seen[place + 1 :].mean() - seen[: place + 1].mean())
    p_gradual = 1.0
    if 0 < place < len(sizes) - 2:
        sharp = _sharpness(np.log(task_tokens + np.array(sizes))) * np.sign(height)
        chance = noise @ sharp
        spread = np.maximum(chance.std(axis=0), 1e-9)
        p_gradual = _p_value(
            (chance / spread).max(axis=1), float((seen @ sharp / spread)[place - 1])
        )

    places = np.argmax((draws @ jumps) ** 2, axis=1)
    first = int(np.quantile(places, _TAIL, method="lower"))
    last = int(np.quantile(places, 1 - _TAIL, method="higher"))
    heights = draws[:, place + 1 :].mean(axis=1) - draws[:, : place + 1].mean(axis=1)
    low, high = np.quantile(heights, [_TAIL, 1 - _TAIL])
    return Emergence(
        shape="flat" if p_flat > _LEVEL else "gradual" if p_gradual > _LEVEL else "jump",
        before=sizes[place],
        after=sizes[place + 1],
        earliest=sizes[min(first, place)],
        latest=sizes[max(last, place) + 1],
        height=height,
        low=float(low),
        high=float(high),
        p_flat=p_flat,
        p_gradual=p_gradual,
    )


def _jumps(points: int) -> Floats:
    """Return one unit-norm, zero-mean column per place of a jump.

    The squared product of the scores and a column is the sum of squares that the jump explains.

    Returns:
        Shape (points, points - 1). In column j the first j + 1 points lie before the jump.
    """
    after = np.tri(points, points - 1, -1)
    centred = after - after.mean(axis=0)
    columns: Floats = centred / np.linalg.norm(centred, axis=0)
    return columns


def _sharpness(logs: Floats) -> Floats:
    """Return contrasts that are positive if one interval rises more than smooth curves do.

    Args:
        logs: Shape (m,). Log tokens, increasing.

    Returns:
        Shape (m, m - 3). One column per interval with at least two sizes on either side: the rise
        inside the interval minus R times the rise outside.
    """
    points = len(logs)
    inside, outside = np.zeros((points, points - 3)), np.zeros((points, points - 3))
    for column, start in enumerate(range(1, points - 2)):
        inside[[start, start + 1], column] = -1, 1
        outside[start, column], outside[start + 1, column] = 1, -1
        outside[:start, column] -= 1 / start
        outside[start + 2 :, column] += 1 / (points - start - 2)
    steps = np.maximum(_SLOPE * np.diff(logs), _LEAST_STEP)
    x = np.concatenate([[0.0], np.cumsum(steps)])
    # The ratio peaks near the middle of an interval; centers beyond the sizes are irrelevant.
    centers = np.linspace(x[0], x[-1], 100 * points)[:, None]
    curves = 1 / (1 + np.exp(centers - x))
    ratio = ((curves @ inside) / (curves @ outside)).max(axis=0)
    contrasts: Floats = inside - ratio * outside
    return contrasts


def _p_value(draws: Floats, seen: float) -> float:
    # Smaller differences are rounding errors of the order of summation.
    as_large = int((draws >= seen - 1e-9).sum())
    return (1 + as_large) / (1 + len(draws))
