"""Score against general tokens at fixed task data: is there a jump, where, and how sure is that?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from telltune.errors import DataError
from telltune.study.resampling import resample_runs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from telltune.evaluation.registry import Floats
    from telltune.study.resampling import Runs

__all__ = ["Emergence", "find_jump"]


# The fastest growth that still counts as smooth: a logistic curve of this slope over log tokens
# takes a nine-fold growth of the tokens (exp(ln(81) / 2)) from a tenth to nine tenths of its rise.
_SLOPE = 2.0
# Where sizes lie closer together, a smooth rise may still take as few as two intervals
# (ln(81) = 4.4 units of a logistic curve's argument).
_LEAST_STEP = 2.2


@dataclass(frozen=True, slots=True)
class Emergence:
    """How the score moves with general tokens.

    Attributes:
        shape: "flat" where all scores may be the same, "gradual" where a smooth curve may explain
            them, else "jump".
        before: General tokens of the last size before the jump that fits best.
        after: General tokens of the first size behind it.
        earliest: With confidence the jump is not before this size...
        latest: ... and not behind this one.
        height: Mean score behind the jump less that before it; below 0 for a fall.
        low: Lower bound of the confidence interval of the height of a jump at this place.
        high: Upper bound of the same interval.
        p_flat: Probability of scores that move as much or more, if all were the same.
        p_gradual: Upper bound on the probability of a rise as concentrated as this one, if the
            course were smooth. It is 1 where only one size lies before or behind the place: a
            curve that levels off or sets in looks the same there.
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
        """Whether the jump goes up."""
        return self.height >= 0


def find_jump(
    by_general: Mapping[float, Runs],
    task_tokens: float,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Emergence:
    """Fit one jump to the scores by least squares, and test it against flat and smooth courses.

    A jump has two levels and a place between two sizes. The two tests ask:

    - **Flat**: does the best jump explain more of the scores' squares than the chance of items and
      seeds (see `resample_runs`) makes of equal scores? Each draw searches all places too.
    - **Smooth**: is more of the rise in this one interval than in the same interval of any smooth
      curve? Smooth curves are all those that, in each interval, rise at most R times as much as
      they do outside of it (from the mean of the sizes before to its start, and from its end to
      the mean of the sizes behind). R is the largest such ratio of a logistic curve that takes a
      nine-fold growth of the tokens, or two intervals if that is more, from a tenth to nine tenths
      of its rise. Straight lines over log tokens, power laws, saturating exponentials and logistic
      curves up to that slope are among them. "Inside less R times outside" is linear in the
      scores and at most 0 for each of these curves, so that the test needs no fit and errs to the
      side of no jump. The largest of all places is drawn, which pays for the search.

    Each p-value is (1 + draws as large) / (1 + draws). `benchmarks/emergence.py` measures how often
    the tests call a jump on smooth curves and on real jumps.

    Args:
        by_general: Runs of a method by general tokens, at the same task data and on the same items.
        task_tokens: Tokens of the task data.
        confidence: Confidence of the intervals; shapes are called at 1 less this level.
        resamples: How often items and seeds are drawn.
        seed: The result is a pure function of this and the other arguments.

    Raises:
        DataError: Fewer than four sizes, no task tokens, or items that differ.
    """
    if len(by_general) < 4 or task_tokens <= 0:
        raise DataError(
            f"a jump needs four sizes of general data and task tokens above 0, "
            f"not {len(by_general)} and {task_tokens:g}."
        )
    sizes = sorted(by_general)
    groups = [by_general[size] for size in sizes]
    seen = np.array([np.mean([run.score for run in runs]) for runs in groups])
    draws = resample_runs(groups, resamples, seed)
    noise = draws - draws.mean(axis=0)

    jumps = _jumps(len(sizes))
    p_flat = _p_value(((noise @ jumps) ** 2).max(axis=1), float(((seen @ jumps) ** 2).max()))
    # The first of places that fit equally well, whatever rounding says.
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
    tail = (1 - confidence) / 2
    first = int(np.quantile(places, tail, method="lower"))
    last = int(np.quantile(places, 1 - tail, method="higher"))
    heights = draws[:, place + 1 :].mean(axis=1) - draws[:, : place + 1].mean(axis=1)
    low, high = np.quantile(heights, [tail, 1 - tail])
    limit = 1 - confidence
    return Emergence(
        shape="flat" if p_flat > limit else "gradual" if p_gradual > limit else "jump",
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
    """Return one column for each place of a jump, of length 1 and with a mean of 0.

    The square of scores times a column is what that jump explains of the scores' squares.

    Returns:
        Shape (points, points - 1). In column j the first j + 1 points lie before the jump.
    """
    after = np.tri(points, points - 1, -1)
    centred = after - after.mean(axis=0)
    columns: Floats = centred / np.linalg.norm(centred, axis=0)
    return columns


def _sharpness(logs: Floats) -> Floats:
    """Return contrasts that are above 0 where one interval rises more than smooth curves do.

    Args:
        logs: Shape (m,). Log tokens, rising.

    Returns:
        Shape (m, m - 3). A column for each interval with two sizes or more on either side: what
        a course rises inside of it, less R times what it rises outside.
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
    # The steepest place is near the middle of an interval; beyond the sizes nothing is inside.
    centers = np.linspace(x[0], x[-1], 100 * points)[:, None]
    curves = 1 / (1 + np.exp(centers - x))
    ratio = ((curves @ inside) / (curves @ outside)).max(axis=0)
    contrasts: Floats = inside - ratio * outside
    return contrasts


def _p_value(draws: Floats, seen: float) -> float:
    # Gains nearer than this are the same, summed in another order.
    as_large = int((draws >= seen - 1e-9).sum())
    return (1 + as_large) / (1 + len(draws))
