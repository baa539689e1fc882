"""The data-saving factor is exact within the curve, censored beyond, and covers the truth."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.errors import DataError
from telltune.evaluation.metrics import mean_of
from telltune.study.statistics.data_efficiency import (
    Saving,
    monotone,
    saving_factor,
    tokens_to_reach,
)

SIZES = (10**3.5, 1e4, 10**4.5, 1e5)


def runs_of(*scores, items=200):
    """Return a run for each score, made of right and wrong items."""
    return [
        mean_of([100.0] * round(score * items / 100) + [0.0] * round((100 - score) * items / 100))
        for score in scores
    ]


def curve_of(*scores):
    return {size: runs_of(score) for size, score in zip(SIZES, scores, strict=True)}


# The curve

curves = st.lists(st.floats(0, 100), min_size=1, max_size=7)


@given(curves, st.data())
def test_monotone_curve_is_that_of_scikit_learn(scores, data):
    from sklearn.isotonic import isotonic_regression

    weights = data.draw(st.lists(st.integers(1, 5), min_size=len(scores), max_size=len(scores)))
    expected = isotonic_regression(scores, sample_weight=weights)
    [found] = monotone(np.array([scores]), np.array(weights, dtype=float))
    assert found == pytest.approx(expected, abs=1e-9)


@given(curves)
def test_monotone_curve_never_falls_and_leaves_a_rising_one_alone(scores):
    [found] = monotone(np.array([scores]), np.ones(len(scores)))
    assert (np.diff(found) >= -1e-9).all()
    assert found.mean() == pytest.approx(np.mean(scores))
    [again] = monotone(np.array([sorted(scores)]), np.ones(len(scores)))
    assert again == pytest.approx(sorted(scores))


def test_violators_are_pooled_by_weight():
    [found] = monotone(np.array([[10.0, 40.0, 30.0, 50.0]]), np.array([1.0, 3.0, 1.0, 1.0]))
    assert found == pytest.approx([10, 37.5, 37.5, 50])


def test_tokens_lie_on_straight_lines_over_log_tokens():
    scores = np.array([20.0, 25.0, 30.0, 60.0, 60.1, 10.0, 5.0])
    curves = np.tile([10.0, 20.0, 30.0, 60.0], (7, 1))
    found = tokens_to_reach(scores, curves, np.array(SIZES))
    assert found == pytest.approx([1e4, 10**4.25, 10**4.5, 1e5, math.inf, 0, 0])


def test_on_a_plateau_the_least_tokens_count():
    curves = np.array([[10.0, 40.0, 40.0, 60.0]])
    [tokens] = tokens_to_reach(np.array([40.0]), curves, np.array(SIZES))
    assert tokens == pytest.approx(1e4)


# The factor


def test_factor_is_tokens_that_sft_needs_over_tokens_used():
    saving = saving_factor(curve_of(20, 40, 50, 60), runs_of(45), 1e4, resamples=500)
    assert saving.factor == pytest.approx(10**0.25)
    assert saving.censored == ""
    assert saving.low < saving.factor < saving.high


def test_several_seeds_count_by_their_mean():
    curve = curve_of(20, 40, 50, 60) | {1e4: runs_of(30, 40, 50)}
    saving = saving_factor(curve, runs_of(40, 50), 1e4, resamples=500)
    assert saving.factor == pytest.approx(10**0.25)


def test_sft_that_never_gets_there_gives_a_lower_bound():
    saving = saving_factor(curve_of(10, 15, 20, 25), runs_of(80), 10**3.5, resamples=500)
    assert saving.censored == ">"
    assert saving.factor == saving.low == pytest.approx(10**1.5)
    assert saving.high == math.inf
    assert str(saving) == ">32 (32 to >32)"


def test_sft_that_is_there_at_once_gives_an_upper_bound():
    saving = saving_factor(curve_of(50, 55, 60, 65), runs_of(5), 1e4, resamples=500)
    assert saving.censored == "<"
    assert saving.factor == saving.high == pytest.approx(10**-0.5)
    assert saving.low == 0
    assert str(saving) == "<0.32 (<0.32 to 0.32)"


def test_interval_may_be_open_where_the_factor_is_not():
    # Other items than SFT's are right, so that resampling may put it above SFT at any size.
    method = [mean_of(run.per_item[::-1]) for run in runs_of(58)]
    saving = saving_factor(curve_of(10, 30, 50, 60), method, 1e4, resamples=500)
    assert saving.censored == ""
    assert 0.3 < saving.low < saving.factor < 10
    assert saving.high == math.inf
    assert str(saving).endswith("to >10)")


def test_nothing_right_anywhere_tells_nothing():
    saving = saving_factor(curve_of(0, 0, 0, 0), runs_of(0), 1e4, resamples=500)
    assert (saving.low, saving.high) == (0, math.inf)


def test_one_size_tells_only_on_which_side():
    above = saving_factor({1e4: runs_of(30)}, runs_of(60), 1e4, resamples=500)
    assert str(above) == ">1.0 (1.0 to >1.0)"


@pytest.mark.parametrize(
    ("saving", "text"),
    [
        (Saving(6.31, 3.12, math.inf, "", 1.0, 31.4), "6.3 (3.1 to >31)"),
        (Saving(0.5, 0, 12.3, "", 0.1, 31.4), "0.50 (<0.10 to 12)"),
    ],
)
def test_text_says_what_is_censored(saving, text):
    assert str(saving) == text


@pytest.mark.parametrize(("curve", "tokens"), [({}, 1e4), (curve_of(1, 2, 3, 4), 0)])
def test_a_factor_needs_sizes_and_tokens(curve, tokens):
    with pytest.raises(DataError, match="at least one size of SFT, and tokens above 0"):
        saving_factor(curve, runs_of(5), tokens)


scores = st.integers(0, 100)


@given(st.lists(scores, min_size=4, max_size=4), scores, scores)
@settings(max_examples=40)
def test_a_better_method_saves_no_less_and_the_interval_holds_the_factor(curve, one, other):
    worse, better = (
        saving_factor(curve_of(*curve), runs_of(score), 1e4, resamples=50)
        for score in sorted([one, other])
    )
    assert worse.factor <= better.factor
    for saving in (worse, better):
        assert saving.low <= saving.factor <= saving.high
        assert saving.smallest <= saving.factor <= saving.largest


# Coverage


@pytest.mark.parametrize(
    ("factor", "seeds", "luck"), [(3, 1, 0.0), (3, 3, 0.2), (8, 3, 0.2)], ids=str
)
def test_interval_covers_the_true_factor(simulate, factor, seeds, luck):
    rng = np.random.default_rng(7)
    covered = 0
    for study in range(120):
        *sft, method = simulate(rng, np.log([*SIZES, 1e4 * factor]), seeds, luck=luck)
        saving = saving_factor(
            dict(zip(SIZES, sft, strict=True)), method, 1e4, resamples=400, seed=study
        )
        covered += saving.low <= factor <= saving.high
    # 95% of 120 studies, within 2.5 standard errors. Of three seeds' factors, an interval for
    # the items alone covers 86%, and one that draws other items for every size 99.6%.
    assert 0.9 <= covered / 120 <= 0.992


def test_10_000_resamples_are_quick(simulate):
    *sft, method = simulate(np.random.default_rng(0), np.log([*SIZES, 2e4]))
    start = time.process_time()
    saving_factor(dict(zip(SIZES, sft, strict=True)), method, 1e4)
    # This takes a third of a second.
    assert time.process_time() - start < 4
