"""Intervals give known answers, have width without a visible spread, and cover the truth."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from telltune.errors import DataError, RecipeError
from telltune.evaluation import intervals
from telltune.evaluation.intervals import (
    Interval,
    bootstrap_interval,
    move_within,
    paired_bootstrap,
    resample_scores,
)
from telltune.evaluation.metrics import Scored, get_metric, mean_of


def right_of(right, items):
    return mean_of([100.0] * right + [0.0] * (items - right))


def off_scale(per_item):
    scored = mean_of(per_item)
    return Scored(scored.per_item, scored.statistics, scored.reduce, percent=False)


def wilson(right, items):
    interval = binomtest(right, items).proportion_ci(method="wilson")
    return interval.low, interval.high


# One system


def test_interval_is_a_function_of_the_seed():
    scored = right_of(30, 50)
    assert bootstrap_interval(scored, seed=1) == bootstrap_interval(scored, seed=1)
    draws = {bootstrap_interval(mean_of(np.arange(30.0) ** 2 / 9), seed=s).low for s in range(5)}
    assert len(draws) > 1


def test_interval_does_not_depend_on_the_block_size(monkeypatch):
    scored = mean_of(np.arange(30.0))
    whole = bootstrap_interval(scored), paired_bootstrap(scored, right_of(9, 30))
    monkeypatch.setattr(intervals, "_BLOCK", 100)
    blocks = bootstrap_interval(scored), paired_bootstrap(scored, right_of(9, 30))
    assert whole == blocks


def test_interval_of_a_mean_is_near_the_normal_one():
    per_item = np.random.default_rng(0).uniform(0, 100, size=400)
    interval = bootstrap_interval(mean_of(per_item), resamples=4000)
    half = 1.96 * per_item.std() / math.sqrt(400)
    assert interval.score == pytest.approx(per_item.mean())
    assert interval.low == pytest.approx(per_item.mean() - half, abs=0.35)
    assert interval.high == pytest.approx(per_item.mean() + half, abs=0.35)


def test_more_confidence_is_wider():
    scored = right_of(30, 50)
    narrow, wide = bootstrap_interval(scored, 0.8), bootstrap_interval(scored, 0.99)
    assert wide.low < narrow.low < narrow.score < narrow.high < wide.high


@pytest.mark.parametrize("items", [1, 5, 200])
def test_all_wrong_and_all_right_give_the_wilson_interval(items):
    none, every = bootstrap_interval(right_of(0, items)), bootstrap_interval(right_of(items, items))
    low, high = wilson(0, items)
    assert (none.score, none.low, none.high) == pytest.approx((0, 100 * low, 100 * high))
    low, high = wilson(items, items)
    assert (every.score, every.low, every.high) == pytest.approx((100, 100 * low, 100 * high))


def test_none_of_200_is_not_reported_as_certain():
    assert bootstrap_interval(right_of(0, 200)).high == pytest.approx(1.88, abs=0.01)


@pytest.mark.parametrize("name", ["macro_f1", "balanced_accuracy", "chrf", "bleu"])
def test_perfect_corpus_metric_is_not_reported_as_certain(name):
    texts = ["one two three four", "five six seven eight nine"] * 5
    interval = bootstrap_interval(get_metric(name)(texts, texts))
    assert interval.score == pytest.approx(100)
    assert interval.high == pytest.approx(100)
    assert interval.low == pytest.approx(100 * wilson(10, 10)[0])


def test_one_item_leaves_most_of_the_scale_open():
    interval = bootstrap_interval(mean_of([40.0]))
    assert 0 < interval.low < 10
    assert 85 < interval.high < 100


def test_one_item_on_a_scale_without_ends_has_no_bounds():
    interval = bootstrap_interval(off_scale([0.7]))
    assert interval.score == 0.7
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_nothing_scored_is_an_error():
    with pytest.raises(DataError, match="no scored items"):
        bootstrap_interval(mean_of([]))
    with pytest.raises(DataError, match="no scored items"):
        paired_bootstrap(mean_of([]), mean_of([]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confidence": 95}, "confidence must be between 0 and 1, such as 0.95, not 95"),
        ({"confidence": 0.0}, "not 0.0"),
        ({"resamples": 0}, "resamples must be at least 1"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(RecipeError, match=message):
        bootstrap_interval(right_of(1, 2), **settings)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20))
@settings(max_examples=50)
def test_interval_holds_its_score_and_stays_on_the_scale(per_item):
    interval = bootstrap_interval(mean_of(per_item), resamples=200)
    slack = 1e-9
    assert -slack <= interval.low <= interval.score + slack
    assert interval.score - slack <= interval.high <= 100 + slack


def test_bootstrap_of_macro_f1_is_that_of_rescoring():
    """The matrix product gives the same spread as scoring the texts of each resample."""
    rng = np.random.default_rng(3)
    gold = rng.choice(["a", "b", "c"], size=60).tolist()
    got = [g if rng.random() < 0.7 else "a" for g in gold]
    macro_f1 = get_metric("macro_f1")
    interval = bootstrap_interval(macro_f1(got, gold))
    afresh = []
    for _ in range(500):
        picks = rng.integers(0, 60, size=60)
        afresh.append(macro_f1([got[i] for i in picks], [gold[i] for i in picks]).score)
    low, high = np.quantile(afresh, [0.025, 0.975])
    assert interval.low == pytest.approx(low, abs=1.5)
    assert interval.high == pytest.approx(high, abs=1.5)


def test_luck_beside_that_of_the_items_widens_an_interval_but_not_beyond_the_scale():
    scored, luck = right_of(45, 50), np.random.default_rng(1).normal(0, 20, 2000)
    plain, lucky = bootstrap_interval(scored), bootstrap_interval(scored, luck=luck)
    assert lucky.low < plain.low - 10
    assert plain.high < lucky.high <= 100


@pytest.mark.parametrize("ends", [(0.0, 100.0), (-100.0, 100.0), (1.0, math.inf)])
def test_luck_moves_a_score_by_itself_inside_and_by_less_near_an_end(ends):
    scores = np.array([ends[0], ends[0] + 1e-9, 50.0, min(ends[1], 1e6)])
    for luck in (-500.0, -3.0, 0.0, 3.0, 500.0):
        moved = move_within(scores, luck, ends)
        assert ((ends[0] <= moved) & (moved <= ends[1])).all()
        assert (np.sign(moved - scores) * np.sign(luck) >= 0).all()
    assert move_within(scores, 3.0, ends)[2] == pytest.approx(53.0, abs=0.01)
    assert move_within(scores, 0.0, ends) == pytest.approx(scores)


def _coverage(draw, truth, trials=250):
    rng = np.random.default_rng(11)
    held = 0
    for seed in range(trials):
        interval = bootstrap_interval(draw(rng), resamples=400, seed=seed)
        held += interval.low <= truth <= interval.high
    return held / trials


# 250 trials of a true 95% give 0.95 ± 0.04 (three standard errors). The percentile bootstrap is
# known to be slightly too low for small samples, hence the lower bound of 0.90.
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_interval_of_a_share_covers_the_truth(share):
    coverage = _coverage(lambda rng: mean_of(100.0 * (rng.random(60) < share)), 100 * share)
    assert 0.90 <= coverage <= 0.99


def test_interval_of_a_share_near_the_end_still_covers_the_truth():
    # In 16% of trials all 60 items are right, which a plain percentile bootstrap would miss.
    # There are few possible values, so only a lower bound of the coverage is tested.
    assert _coverage(lambda rng: mean_of(100.0 * (rng.random(60) < 0.97)), 97.0) >= 0.92


def test_interval_of_a_mean_covers_the_truth():
    coverage = _coverage(lambda rng: mean_of(100 * rng.beta(2, 5, size=60)), 100 * 2 / 7)
    assert 0.90 <= coverage <= 0.99


def test_interval_of_macro_f1_covers_the_truth():
    macro_f1 = get_metric("macro_f1")

    def draw(rng, size=100):
        gold = rng.choice(["a", "b"], size=size, p=[0.7, 0.3])
        got = np.where(rng.random(size) < 0.8, gold, np.where(gold == "a", "b", "a"))
        return macro_f1(got.tolist(), gold.tolist())

    # Exact: a is right in .56 of .70 gold and .62 predicted, b in .24 of .30 and .38.
    truth = 100 * (2 * 0.56 / (0.70 + 0.62) + 2 * 0.24 / (0.30 + 0.38)) / 2
    assert 0.90 <= _coverage(draw, truth, trials=150) <= 0.99


def test_2000_resamples_are_quick():
    rng = np.random.default_rng(0)
    words = np.array(["one", "two", "three", "four", "five", "six"])
    texts = [" ".join(rng.choice(words, size=8)) for _ in range(1000)]
    scored = get_metric("bleu")(texts, texts[1:] + texts[:1])
    start = time.perf_counter()
    bootstrap_interval(scored)
    # This takes a tenth of a second; scoring 2000 corpora again would take minutes.
    assert time.perf_counter() - start < 5


# Two systems


def test_systems_are_resampled_on_the_same_items():
    a = mean_of(np.random.default_rng(0).uniform(0, 90, size=50))
    draws = resample_scores([a, mean_of(a.per_item + 5), right_of(9, 50)], 100)
    assert draws.shape == (100, 3)
    assert draws[:, 1] - draws[:, 0] == pytest.approx(5)
    with pytest.raises(DataError, match="cannot compare 50 items with 3 items"):
        resample_scores([a, right_of(1, 3)])


def test_luck_beside_that_of_the_items_makes_a_difference_less_sure():
    better, worse = right_of(90, 100), right_of(50, 100)
    luck = np.random.default_rng(1).normal(0, 40, 2000)
    paired = paired_bootstrap(better, worse, luck=luck)
    assert paired.low < 0 < paired.high
    assert 0.1 < paired.p_value < 0.6


def test_same_answers_differ_by_nothing():
    scored = right_of(30, 50)
    paired = paired_bootstrap(scored, scored)
    assert paired.difference == 0
    assert paired.p_value == 1
    # None of 50 items differs, so the true difference is small: not 0 to 0, but close to it.
    assert paired.low == pytest.approx(-100 * wilson(0, 50)[1])
    assert paired.high == pytest.approx(100 * wilson(0, 50)[1])


def test_one_item_proves_nothing():
    paired = paired_bootstrap(right_of(1, 1), right_of(0, 1))
    assert paired.difference == 100
    assert paired.p_value == 1
    assert paired.low < 0


def test_clear_difference_is_found_and_has_a_sign():
    better, worse = right_of(90, 100), right_of(50, 100)
    forth, back = paired_bootstrap(better, worse), paired_bootstrap(worse, better)
    assert forth.difference == 40
    assert 25 < forth.low < 40 < forth.high < 55
    assert forth.p_value < 0.001
    assert back.difference == -40
    assert back.high < 0
    assert back.p_value < 0.001


def test_p_value_of_right_and_wrong_is_that_of_mcnemar():
    a = mean_of([100.0] * 12 + [0.0] * 4 + [100.0] * 30)
    b = mean_of([0.0] * 12 + [100.0] * 4 + [100.0] * 30)
    exact = binomtest(12, 16).pvalue
    assert paired_bootstrap(a, b, resamples=20_000).p_value == pytest.approx(exact, abs=0.01)


def test_pairing_sees_what_separate_intervals_cannot():
    hard = np.random.default_rng(0).uniform(0, 90, size=80)
    a, b = mean_of(hard + 3), mean_of(hard + np.tile([0.0, 2.0], 40))
    assert bootstrap_interval(a).low < bootstrap_interval(b).high
    paired = paired_bootstrap(a, b)
    assert paired.low > 0
    assert paired.p_value < 0.01


def test_corpus_metrics_can_be_compared():
    gold = ["a", "b", "c"] * 20
    a, b = gold[:50] + ["a"] * 10, ["a"] * 60
    macro_f1 = get_metric("macro_f1")
    paired = paired_bootstrap(macro_f1(a, gold), macro_f1(b, gold))
    assert paired.difference > 50
    assert paired.low > 40
    assert paired.p_value < 0.001


def test_p_value_is_rarely_small_where_there_is_no_difference():
    rng = np.random.default_rng(5)
    small = 0
    for seed in range(150):
        a, b = (mean_of(100.0 * (rng.random(40) < 0.6)) for _ in range(2))
        small += paired_bootstrap(a, b, resamples=300, seed=seed).p_value <= 0.05
    # At most 5%, or less because the test is discrete: 0.05 and three standard errors.
    assert small / 150 <= 0.103


def test_different_items_cannot_be_paired():
    with pytest.raises(DataError, match="cannot compare 3 items with 4 items"):
        paired_bootstrap(right_of(1, 3), right_of(1, 4))


def test_interval_is_a_plain_record():
    assert Interval(1.0, 0.5, 2.0) == Interval(score=1.0, low=0.5, high=2.0)
