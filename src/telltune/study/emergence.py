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


@dataclass(frozen=True, slots=True)
class Emergence:
    """How the score moves with general tokens.

    Attributes:
        shape: "flat" where the scores could all be one, "gradual" where a smooth curve could do as
            well as a jump, else "jump". At the sizes tried: a curve that is steep between two of
            them only reads as a jump.
        before: General tokens of the last size before the jump that fits best.
        after: Of the first size behind it.
        earliest: With confidence the jump is not before this size...
        latest: ... and not behind this one.
        height: Mean score behind the jump less that before it; below 0 for a fall.
        low: Of the confidence interval of the height of a jump at this place.
        high: Of the same.
        p_flat: Of scores that move as much or more, were they all one.
        p_gradual: Of a jump that fits as much better than a smooth curve, were it one.
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
    """Fit one jump to the scores by least squares, and hold it against no and smooth growth.

    A jump has two levels and a place between two sizes. Smooth growth is a parabola on the log of
    task and general tokens together (so that no general data has a place on it): a straight line
    would call every curve that levels off a jump. Four to eight points bear no more; a logistic
    curve through them has a width that nothing but its prior decides.

    Both p-values compare what a jump explains of the squares with what the luck of items and seeds
    (see `resampling`) makes of flat scores, or of the fitted parabola. The best of all places is
    searched in every draw, so that the search is paid for. Each is (1 + draws as large) /
    (1 + draws). Swapping runs between sizes would test flatness exactly, but one seed at four
    sizes has 24 orders only, and no order of runs is a parabola.

    Args:
        by_general: Runs of a method by general tokens, at the same task data and on the same items.
        task_tokens: Of the task data.
        confidence: Of the intervals, and of the shape.
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

    smooth, jumps = _parabola(np.log(task_tokens + np.array(sizes))), _jumps(len(sizes))

    def best_jump(scores: Floats) -> Floats:
        gain: Floats = ((scores @ jumps) ** 2).max(axis=-1)
        return gain

    def beyond_smooth(scores: Floats) -> Floats:
        gain: Floats = best_jump(scores) - ((scores @ smooth) ** 2).sum(axis=-1)
        return gain

    p_flat = _p_value(best_jump(noise), best_jump(seen))
    p_gradual = _p_value(beyond_smooth(smooth @ (smooth.T @ seen) + noise), beyond_smooth(seen))

    places = np.argmax((draws @ jumps) ** 2, axis=1)
    # Of places that fit alike the first, whatever rounding says.
    place = int(np.argmax(np.round((seen @ jumps) ** 2, 9)))
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
        height=float(seen[place + 1 :].mean() - seen[: place + 1].mean()),
        low=float(low),
        high=float(high),
        p_flat=p_flat,
        p_gradual=p_gradual,
    )


# Both give columns of length 1 that sum to 0: the square of scores times a column is what the fit
# explains of the scores' squares.


def _parabola(x: Floats) -> Floats:
    """Shape (m, 2): what a parabola through m points may be, in orthogonal columns."""
    powers = np.column_stack([x - x.mean(), (x - x.mean()) ** 2])
    columns: Floats = np.linalg.qr(powers - powers.mean(axis=0)).Q
    return columns


def _jumps(points: int) -> Floats:
    """Shape (points, points - 1): of column j the first j + 1 points lie before the jump."""
    after = np.tri(points, points - 1, -1)
    centred = after - after.mean(axis=0)
    columns: Floats = centred / np.linalg.norm(centred, axis=0)
    return columns


def _p_value(draws: Floats, seen: Floats) -> float:
    # Gains nearer than this are the same, summed in another order.
    as_large = int((draws >= seen - 1e-9).sum())
    return (1 + as_large) / (1 + len(draws))
