"""Resampling items and seeds gives the right spread, from the right source, quickly."""

import time
from dataclasses import replace

import numpy as np
import pytest

from telltune.errors import DataError
from telltune.evaluation.metrics import get_metric, mean_of
from telltune.study.statistics.resampling import (
    distinct_runs,
    mean_over_seeds,
    resample_runs,
    seed_luck,
)
from telltune.study.statistics.significance import compare_runs, spread_over_seeds


def test_mean_over_seeds_is_the_mean_of_corpus_scores():
    gold = ["a", "b", "c"] * 10
    macro_f1 = get_metric("macro_f1")
    runs = [macro_f1(["a"] * n + gold[n:], gold) for n in (0, 9, 20)]
    mean = mean_over_seeds(runs)
    assert mean.score == pytest.approx(np.mean([run.score for run in runs]))
    assert mean.per_item == pytest.approx(np.mean([run.per_item for run in runs], axis=0))
    sums = np.stack([mean.statistics[:20].sum(axis=0), mean.statistics[5:].sum(axis=0)])
    assert mean.reduce(sums) == pytest.approx(
        [
            np.mean([run.reduce(run.statistics[rows].sum(axis=0)) for run in runs])
            for rows in (slice(20), slice(5, None))
        ]
    )


def test_runs_that_all_answered_alike_are_one():
    same, other = mean_of([100.0, 0.0]), mean_of([0.0, 100.0])
    assert len(distinct_runs([same, same, same])) == 1
    assert len(distinct_runs([same, same, other])) == 3


def test_draws_are_a_function_of_the_seed(simulate):
    groups = simulate(np.random.default_rng(0), [9, 10], items=40)
    assert (resample_runs(groups, 50, seed=1) == resample_runs(groups, 50, seed=1)).all()
    assert (resample_runs(groups, 50, seed=1) != resample_runs(groups, 50, seed=2)).any()


def test_all_groups_are_drawn_on_the_same_items():
    hard = mean_of(np.random.default_rng(0).uniform(0, 90, 50))
    draws = resample_runs([[hard], [mean_of(hard.per_item + 5)]], 100)
    assert draws[:, 1] - draws[:, 0] == pytest.approx(5)
    assert draws[:, 0].std() > 1


def test_one_run_or_equal_runs_have_no_luck(simulate):
    varied, [single] = simulate(np.random.default_rng(0), [9]), [mean_of([100.0, 0.0] * 100)]
    luck = seed_luck([[single], varied[0], [single] * 3], 100)
    assert (luck[:, [0, 2]] == 0).all()
    assert luck[:, 1].std() > 0
    assert (seed_luck([[single], [single]], 100) == 0).all()


def test_luck_of_two_seeds_without_item_noise_is_students_t():
    """All items change together, so only seeds differ: scores 40 and 60, mean 50 +- 10 t."""
    runs = [mean_of(np.linspace(0, 80, 50) + change) for change in (0.0, 20.0)]
    luck = seed_luck([runs], 50_000)
    # Quantiles of Student's t with one degree of freedom.
    assert np.quantile(luck, [0.25, 0.75]) == pytest.approx([-10, 10], rel=0.05)
    assert np.quantile(luck, [0.05, 0.95]) == pytest.approx([-63.1, 63.1], rel=0.1)


def test_spread_between_runs_that_items_explain_is_not_counted_twice():
    """With coin flips, runs differ only because items are few, so seeds add little spread."""
    rng = np.random.default_rng(0)
    groups = [[mean_of(100.0 * (rng.random(200) < 0.5)) for _ in range(3)] for _ in range(20)]
    luck = seed_luck(groups, 2000)
    assert luck.std() < 0.5 * np.std([run.score for runs in groups for run in runs]) / np.sqrt(3)


def test_luck_is_of_the_size_that_seeds_have(simulate):
    groups = simulate(np.random.default_rng(0), [9.9] * 40, luck=0.5)
    # The mean of three seeds varies as the groups' means do, since items are nearly the same.
    means = np.std([np.mean([run.score for run in runs]) for runs in groups])
    assert seed_luck(groups, 2000).std() == pytest.approx(means, rel=0.3)


def test_none_of_200_is_not_drawn_as_certain():
    none, every = mean_of([0.0] * 200), mean_of([100.0] * 200)
    draws = resample_runs([[none] * 3, [every]], 5000)
    assert draws.min() >= 0
    assert draws.max() <= 100
    assert 1 < np.quantile(draws[:, 0], 0.975) < 2.5
    assert 97.5 < np.quantile(draws[:, 1], 0.025) < 99


@pytest.mark.parametrize("rights", [[(98, 100), (30, 100)], [(0, 2), (100, 99)], [(0, 100), (50,)]])
def test_draws_of_scores_and_differences_stay_in_their_range(rights):
    """Seeds that differ widely have a spread that a normal distribution takes out of range."""
    rng = np.random.default_rng(0)
    groups = [
        [mean_of(rng.permutation(100.0 * (np.arange(100) < right))) for right in group]
        for group in rights
    ]
    draws = resample_runs(groups, 5000)
    assert draws.min() >= 0
    assert draws.max() <= 100
    compared = compare_runs(*groups, resamples=2000)
    assert -100 <= compared.low <= compared.difference <= compared.high <= 100
    # If draws were only cut off, many would be at the bounds.
    inside = (draws[:, 0] > 0) & (draws[:, 0] < 100)
    assert len(np.unique(draws[inside, 0])) > 1000


def test_perplexity_over_seeds_is_never_below_1():
    items = np.linspace(1.0, 1.2, 50)
    runs = [replace(mean_of(items + add), percent=False, lowest=1.0) for add in (0.0, 3.0)]
    draws = resample_runs([runs], 5000)
    assert draws.min() >= 1
    assert np.quantile(draws, 0.9) > 3
    assert spread_over_seeds(runs).interval.low >= 1


def test_different_items_cannot_be_drawn_together():
    with pytest.raises(DataError, match="cannot compare 2 items with 3 items"):
        resample_runs([[mean_of([1.0, 2.0])], [mean_of([1.0, 2.0, 3.0])]])


def test_10_000_resamples_of_a_curve_are_quick(simulate):
    groups = simulate(np.random.default_rng(0), np.linspace(8, 11, 5))
    start = time.process_time()
    resample_runs(groups, 10_000)
    # This takes a fifth of a second.
    assert time.process_time() - start < 4
