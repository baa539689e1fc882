"""What else could have come out of a study: other test items, other seeds.

Every interval of a study stands on `resample_runs`. Its two sources of chance are crossed, since
all runs answer the same items:

- **Items** are drawn again with replacement, the same ones for every method, size and seed. What
  makes an item hard for all methods thus cancels in a difference.
- **Seeds** are far too few to be drawn again: of three, a ninth of the resamples would hold one
  seed three times, and their variance would come out a third too small (by (k - 1) / k). The
  noise that a seed adds is drawn from a normal distribution instead, squeezed near the ends of the
  score's range so that no draw leaves it (`move_within`). Its variance is what runs differ by
  between seeds, less what they differ by because the items are few (that part the items have
  brought in already). How well so few seeds tell that variance is drawn too, as d s^2 over a
  chi-square of d degrees of freedom; without that the intervals would be those of a known variance,
  with 1.96 where three seeds deserve a Student's t.

The variance is pooled over the groups: one more assumption (runs of all groups vary alike), for
many more degrees of freedom; kept apart for a method of three seeds and SFT's curve, intervals of
the data-saving factor came out up to twice as wide on log tokens, and covered 97 to 99%. Seeds
count as independent from method to method. Where methods share a seed's luck, as they do if a seed
also draws the task data, intervals of differences are somewhat too wide; pairs of seeds would leave
three seeds two degrees of freedom, which costs more unless over half of the luck is shared.

On simulated studies of 200 items 95% intervals covered the true factor in 93 to 97%. Two things
they cannot know: with one seed, the luck of seeds (79% at 4 points of standard deviation); with
three, that the method's seeds differ by twice to four times what SFT's do (86 to 88%).

Source: crossed random effects by pigeonhole resampling, Owen (2007); a variance component drawn as
a generalized pivot, Weerahandi (1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from telltune.evaluation.intervals import move_within, resample_scores
from telltune.evaluation.registry import Floats, Scored

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Runs", "distinct_runs", "mean_over_seeds", "resample_runs", "seed_luck"]

# Resamples that tell a variance to some percent; the seeds' own is known to a factor at best.
_ENOUGH = 500

# Each source of chance has a stream of its own; `resample_scores` draws the items from the seed.
_LUCK, _UNSEEN = 2, 3

# Scores nearer than this are the same score, summed in another order.
_ROUNDING = 1e-9

Runs = Sequence[Scored]
"""One method at one size: what a metric said of it, once a seed, always on the same items."""


def distinct_runs(runs: Runs) -> Runs:
    """The runs, or only the first where all answered alike, as a method without chance does."""
    first = runs[0].statistics
    return runs if any(not np.array_equal(run.statistics, first) for run in runs) else runs[:1]


def mean_over_seeds(runs: Runs) -> Scored:
    """One `Scored` whose score is the mean over seeds of the corpus score.

    Args:
        runs: k runs on the same n items, by one metric.

    Returns:
        Its statistics hold those of all runs side by side, so that an item carries its answers
        under every seed with it.
    """
    return Scored(
        per_item=np.mean([run.per_item for run in runs], axis=0),
        statistics=np.hstack([run.statistics for run in runs]),
        reduce=_mean_of_each([run.reduce for run in runs]),
        percent=runs[0].percent,
        lowest=runs[0].lowest,
    )


def _mean_of_each(reduces: Sequence[Callable[[Floats], Floats]]) -> Callable[[Floats], Floats]:
    def reduce(sums: Floats) -> Floats:
        parts = np.split(sums, len(reduces), axis=-1)
        mean: Floats = np.mean(
            [one(part) for one, part in zip(reduces, parts, strict=True)], axis=0
        )
        return mean

    return reduce


def resample_runs(groups: Sequence[Runs], resamples: int = 10_000, seed: int = 0) -> Floats:
    """Draw what the mean scores might have been with other items and other seeds.

    Where all items of a group score alike (all wrong, all right) no resample would ever differ,
    and 0 of 200 would be certain. Such a group is drawn as if a share of its items, of which none
    was seen in n, might have come out at either end of the scale.

    Args:
        groups: m groups of runs, all on the same n items. They may differ in how many seeds.
        resamples: How many draws.
        seed: The draws are a pure function of this and the other arguments.

    Returns:
        Shape (resamples, m). Columns go together: a row has one set of items. All lie in the
        range of the score.

    Raises:
        DataError: There are no items, or not the same number everywhere.
    """
    means = resample_scores([mean_over_seeds(runs) for runs in groups], resamples, seed)
    rng = np.random.default_rng([seed, _UNSEEN])
    for mean, runs in zip(means.T, groups, strict=True):
        if np.ptp(mean) < _ROUNDING and runs[0].percent:
            share = rng.beta(1, len(runs[0]), resamples)
            mean += share * (rng.choice([0.0, 100.0], resamples) - mean)
    luck = seed_luck(groups, resamples, seed)
    columns = zip(means.T, luck.T, groups, strict=True)
    return np.column_stack([move_within(mean, by, runs[0].ends) for mean, by, runs in columns])


def seed_luck(groups: Sequence[Runs], resamples: int = 10_000, seed: int = 0) -> Floats:
    """Draw how far the luck of its seeds may have moved the mean score of each group.

    A group with one run, or whose runs all answered alike, tells nothing about seeds and gets
    none: what is said of it holds for that very run.

    Args:
        groups: m groups of runs.
        resamples: How many draws.
        seed: The draws are a pure function of this and the other arguments.

    Returns:
        Shape (resamples, m), in the units of the score, around 0.
    """
    luck = np.zeros((resamples, len(groups)))
    several = [g for g, runs in enumerate(groups) if len(distinct_runs(runs)) > 1]
    if not several:
        return luck
    runs = [run for g in several for run in groups[g]]
    seeds = np.array([len(groups[g]) for g in several])
    freedom = len(runs) - len(several)
    from_mean = _from_mean(seeds)
    seen = np.array([run.score for run in runs]) @ from_mean
    by_items = (resample_scores(runs, _ENOUGH, seed) @ from_mean).var(axis=0).sum() / freedom
    rng = np.random.default_rng([seed, _LUCK])
    total = (seen**2).sum() / rng.chisquare(freedom, size=(resamples, 1))
    deviation = np.sqrt(np.maximum(0, total - by_items) / seeds)
    luck[:, several] = rng.standard_normal(deviation.shape) * deviation
    return luck


def _from_mean(seeds: npt.NDArray[np.int_]) -> Floats:
    """A matrix that takes from each run's score the mean of its group, seeds[g] runs in a row."""
    group = np.repeat(np.arange(len(seeds)), seeds)
    same = group[:, None] == group
    matrix: Floats = np.eye(len(group)) - same / seeds[group]
    return matrix
