"""Comparisons give known answers, account for seeds, and have calibrated p-values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.errors import DataError
from telltune.evaluation.intervals import paired_bootstrap
from telltune.evaluation.metrics import get_metric, mean_of
from telltune.study.statistics.significance import compare_runs, holm, mcnemar, spread_over_seeds


def answers(right_both, only_a, only_b, wrong_both=0):
    a = [1] * right_both + [1] * only_a + [0] * only_b + [0] * wrong_both
    b = [1] * right_both + [0] * only_a + [1] * only_b + [0] * wrong_both
    return 100.0 * np.array(a), 100.0 * np.array(b)


# One method


def test_spread_is_mean_and_standard_deviation_of_seeds():
    runs = [mean_of([100.0] * right + [0.0] * (50 - right)) for right in (20, 25, 30)]
    spread = spread_over_seeds(runs)
    assert spread.interval.score == pytest.approx(50)
    assert spread.deviation == pytest.approx(10)
    assert spread.seeds == 3


def test_one_seed_has_no_deviation():
    assert math.isnan(spread_over_seeds([mean_of([100.0, 0.0])]).deviation)


def test_interval_over_seeds_is_wider_than_that_of_the_items_alone(simulate):
    [runs] = simulate(np.random.default_rng(0), [9.9], luck=0.8)
    [steady] = simulate(np.random.default_rng(0), [9.9], luck=0)
    wide, narrow = (spread_over_seeds(r, resamples=2000).interval for r in (runs, steady))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_interval_over_seeds_stays_on_the_scale():
    runs = [mean_of([100.0] * right + [0.0] * (50 - right)) for right in (1, 10, 2)]
    interval = spread_over_seeds(runs, resamples=1000).interval
    assert 0 <= interval.low < interval.score < interval.high <= 100


# McNemar and Holm


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    [(0, 0, 1), (1, 0, 1), (5, 0, 2 / 2**5), (1, 5, 14 / 2**6), (8, 2, 112 / 2**10), (7, 7, 1)],
)
def test_mcnemar_is_the_exact_binomial_of_the_items_that_differ(only_a, only_b, expected):
    a, b = answers(20, only_a, only_b, 9)
    assert mcnemar(a > 0, b > 0) == pytest.approx(expected)


def test_mcnemar_needs_the_same_items():
    with pytest.raises(DataError, match="cannot compare 2 items with 3"):
        mcnemar([1, 0], [1, 0, 1])


def test_holm_is_that_of_the_textbook():
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04, which may not be below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=12))
def test_holm_keeps_order_and_lies_between_plain_and_bonferroni(p_values):
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1, len(p_values) * p) + 1e-12
    by_plain = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[by_plain]) >= 0).all()


# Method against method


def test_one_seed_of_right_and_wrong_has_the_exact_p_value():
    a, b = (mean_of(x) for x in answers(30, 12, 4))
    exact = compare_runs([a], [b], binary=True, resamples=500)
    assert exact.p_value == mcnemar(a.per_item > 0, b.per_item > 0)
    assert compare_runs([a], [b], resamples=5000).p_value == pytest.approx(exact.p_value, abs=0.02)


def test_runs_repeated_by_a_method_without_chance_are_one():
    a, b = (mean_of(x) for x in answers(30, 12, 4))
    once, thrice = (compare_runs([a] * k, [b], binary=True, resamples=500) for k in (1, 3))
    assert once == thrice


def test_one_seed_is_the_paired_bootstrap():
    a, b = (mean_of(x) for x in answers(30, 12, 4))
    assert compare_runs([a], [b], resamples=500, seed=3) == paired_bootstrap(
        a, b, resamples=500, seed=3
    )


def test_seeds_are_not_items():
    """A difference that one lucky seed made is not clear, however many items a seed has."""
    steady = [mean_of([100.0] * 40 + [0.0] * 60) for _ in range(3)]
    luck = [mean_of([100.0] * right + [0.0] * (100 - right)) for right in (42, 38, 88)]
    paired = compare_runs(luck, steady, resamples=2000)
    assert paired.difference == pytest.approx(16)
    assert paired.low < 0 < paired.high
    assert paired.p_value > 0.05


def test_a_lead_under_every_seed_is_found(simulate):
    better, worse = simulate(np.random.default_rng(1), [11.4, 9.9])
    paired = compare_runs(better, worse, resamples=2000)
    assert paired.low > 0
    assert paired.p_value < 0.01


def test_methods_may_have_different_numbers_of_seeds(simulate):
    a, b = simulate(np.random.default_rng(1), [10.8, 9.9])
    paired = compare_runs(a, b[:2], resamples=500)
    expected = np.mean([run.score for run in a]) - np.mean([run.score for run in b[:2]])
    assert paired.difference == pytest.approx(expected)
    assert paired.low < paired.difference < paired.high


def test_corpus_metrics_are_taken_of_corpora():
    gold, macro_f1 = ["a", "b", "c"] * 20, get_metric("macro_f1")
    a = [macro_f1(gold[: 50 + n] + ["a"] * (10 - n), gold) for n in (0, 2, 4)]
    b = [macro_f1(["a"] * (60 - n) + gold[60 - n :], gold) for n in (0, 5, 9)]
    paired = compare_runs(a, b, resamples=1000)
    expected = np.mean([run.score for run in a]) - np.mean([run.score for run in b])
    assert paired.difference == pytest.approx(expected)
    assert paired.low > 30
    assert paired.p_value < 0.01


right = st.lists(st.booleans(), min_size=6, max_size=6).map(lambda x: mean_of(100.0 * np.array(x)))


@given(st.lists(right, min_size=1, max_size=3), st.lists(right, min_size=1, max_size=3))
@settings(max_examples=40)
def test_differences_are_antisymmetric_and_p_values_are_probabilities(a, b):
    forth = compare_runs(a, b, resamples=60)
    back = compare_runs(b, a, resamples=60)
    assert forth.difference == pytest.approx(-back.difference)
    assert 1 / 61 <= forth.p_value <= 1
    assert forth.low <= forth.difference <= forth.high


def test_order_of_items_and_of_seeds_does_not_matter(simulate):
    a, b = simulate(np.random.default_rng(1), [10.4, 9.9], items=100)
    order = np.random.default_rng(0).permutation(100)
    a2, b2 = ([mean_of(run.per_item[order]) for run in runs[::-1]] for runs in (a, b))
    one, two = compare_runs(a, b), compare_runs(a2, b2)
    assert two.difference == pytest.approx(one.difference)
    # Other draws, so equal only up to the randomness of the draws.
    assert (two.low, two.high) == pytest.approx((one.low, one.high), abs=1)
    assert two.p_value == pytest.approx(one.p_value, abs=0.02)


@pytest.mark.parametrize(("seeds", "luck"), [(1, 0.0), (3, 0.0), (3, 0.3)])
def test_no_difference_is_rarely_found_where_there_is_none(simulate, seeds, luck):
    rng = np.random.default_rng(7)
    found = covered = 0
    for study in range(120):
        a, b = simulate(rng, [9.9, 9.9], seeds, luck=luck)
        paired = compare_runs(a, b, resamples=300, seed=study)
        found += paired.p_value <= 0.05
        covered += paired.low <= 0 <= paired.high
    # 5% and 95%, within three standard errors of 120 studies.
    assert found / 120 <= 0.11
    assert covered / 120 >= 0.89
