"""Jumps are found where they are, and not where scores are flat or grow steadily."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.errors import DataError
from telltune.evaluation.metrics import mean_of
from telltune.study.statistics.emergence import find_jump

TASK = 1e4
GENERAL = (0, 1e4, 3e4, 1e5, 3e5, 1e6)


def study_of(*scores, items=200):
    """Return one run per size with these scores, in which the right items are random."""
    rng = np.random.default_rng(0)
    return {
        size: [mean_of(rng.permutation(100.0 * (np.arange(items) < score * items / 100)))]
        for size, score in zip(GENERAL, scores, strict=False)
    }


def test_a_jump_is_found_where_it_is():
    found = find_jump(study_of(20, 22, 20, 60, 62, 60), TASK, resamples=2000)
    assert found.shape == "jump"
    assert (found.before, found.after) == (3e4, 1e5)
    assert (found.earliest, found.latest) == (3e4, 1e5)
    assert found.height == pytest.approx(40)
    assert 30 < found.low < 40 < found.high < 50
    assert found.p_flat < 0.01
    assert found.p_gradual < 0.01


def test_a_fall_is_a_jump_down():
    found = find_jump(study_of(60, 62, 60, 20, 22, 20), TASK, resamples=500)
    assert found.shape == "jump"
    assert found.high < 0


def test_flat_scores_are_flat():
    found = find_jump(study_of(40, 42, 39, 41, 40, 41), TASK, resamples=500)
    assert found.shape == "flat"
    assert found.p_flat > 0.3


def test_a_straight_line_on_the_log_of_all_tokens_is_gradual():
    logs = np.log((TASK + np.array(GENERAL)) / TASK)
    found = find_jump(study_of(*(20 + 12 * logs)), TASK, resamples=500)
    assert found.shape == "gradual"
    assert found.p_flat < 0.01
    assert found.p_gradual > 0.3


def test_a_curve_that_levels_off_is_gradual():
    found = find_jump(study_of(20, 38, 48, 56, 60, 62), TASK, resamples=500)
    assert found.shape == "gradual"
    assert found.p_flat < 0.01


def test_equal_scores_everywhere_are_flat_and_certain_of_nothing():
    found = find_jump(study_of(0, 0, 0, 0), TASK, resamples=500)
    assert found.shape == "flat"
    assert found.p_flat == 1
    assert (found.earliest, found.latest) == (0, 1e5)


def test_a_weak_jump_has_a_wide_place():
    strong = find_jump(study_of(20, 20, 20, 70, 70, 70), TASK, resamples=500)
    weak = find_jump(study_of(40, 40, 40, 46, 46, 46), TASK, resamples=500)
    assert strong.latest - strong.earliest < weak.latest - weak.earliest


def test_a_jump_that_one_lucky_seed_made_is_none(simulate):
    rng = np.random.default_rng(2)
    groups = simulate(rng, [9.9] * 6, luck=1.5)
    found = find_jump(dict(zip(GENERAL, groups, strict=True)), TASK, resamples=500)
    first = [runs[:1] for runs in groups]
    alone = find_jump(dict(zip(GENERAL, first, strict=True)), TASK, resamples=500)
    assert alone.p_flat < 0.01
    assert found.p_flat > 0.05


@given(st.lists(st.integers(0, 50).map(lambda half: 2 * half), min_size=4, max_size=6))
@settings(max_examples=40)
def test_what_is_said_fits_together(scores):
    found = find_jump(study_of(*scores, items=50), TASK, resamples=50)
    assert found.earliest <= found.before < found.after <= found.latest
    assert GENERAL.index(found.after) == GENERAL.index(found.before) + 1
    assert 1 / 51 <= found.p_flat <= 1
    assert 1 / 51 <= found.p_gradual <= 1
    turned = find_jump(study_of(*(100 - s for s in scores), items=50), TASK, resamples=50)
    assert turned.height == pytest.approx(-found.height)


@pytest.mark.parametrize(
    ("study", "task_tokens"),
    [(study_of(1, 2, 3), TASK), (study_of(1, 2, 3, 4), 0)],
    ids=["sizes", "task"],
)
def test_a_jump_needs_four_sizes_and_task_tokens(study, task_tokens):
    with pytest.raises(DataError, match="four sizes of general data and task tokens above 0"):
        find_jump(study, task_tokens)


@pytest.mark.parametrize("growth", [0.0, 0.4], ids=["flat", "gradual"])
def test_a_jump_is_rarely_seen_where_there_is_none(simulate, growth):
    rng = np.random.default_rng(3)
    logs = 9 + growth * np.log((TASK + np.array(GENERAL)) / TASK)
    jumps = moves = 0
    for study in range(80):
        groups = simulate(rng, logs)
        found = find_jump(dict(zip(GENERAL, groups, strict=True)), TASK, resamples=300, seed=study)
        moves += found.p_flat <= 0.05
        jumps += found.p_gradual <= 0.05
    # 5% and three standard errors of 80 studies.
    assert jumps / 80 <= 0.124
    assert moves / 80 <= 0.124 if growth == 0 else moves / 80 > 0.5


SMOOTH = {
    "logistic": lambda logs: 1 / (1 + np.exp(-2 * (logs - logs.mean()))),
    "saturating exponential": lambda logs: 1 - np.exp(-(np.exp(logs) - TASK) / 1e5),
    "power law": lambda logs: 1 - np.exp(-0.7 * (logs - logs[0])),
    "accelerating": lambda logs: ((logs - logs[0]) / (logs[-1] - logs[0])) ** 3,
}


@pytest.mark.parametrize("shape", SMOOTH)
def test_smooth_curves_of_all_shapes_are_no_jumps(simulate, shape):
    rng = np.random.default_rng(4)
    # From logit -2 to 2 is some 45 points of score, for a slope of `simulate` of 1.
    course = np.log(2e4) - 2 + 4 * SMOOTH[shape](np.log(TASK + np.array(GENERAL)))
    found = []
    for study in range(60):
        groups = simulate(rng, course, slope=1.0)
        study_ = dict(zip(GENERAL, groups, strict=True))
        found.append(find_jump(study_, TASK, resamples=300, seed=study).shape)
    assert found.count("jump") <= 4
    assert found.count("flat") <= 4


@pytest.mark.parametrize("rise", [1.0, -1.0], ids=["rise", "fall"])
def test_jumps_of_forty_points_are_mostly_called(simulate, rise):
    rng = np.random.default_rng(5)
    course = np.log(2e4) + 2 * rise * np.array([-1, -1, -1, 1, 1, 1])
    found = [
        find_jump(
            dict(zip(GENERAL, simulate(rng, course, slope=1.0), strict=True)),
            TASK,
            resamples=300,
            seed=study,
        )
        for study in range(30)
    ]
    jumps = [one for one in found if one.shape == "jump"]
    assert len(jumps) >= 24
    assert all((one.before, one.after) == (3e4, 1e5) for one in jumps)


@pytest.mark.parametrize("scores", [(20, 60, 60, 62, 60, 61), (20, 21, 20, 20, 21, 60)])
def test_a_rise_with_one_size_on_a_side_may_as_well_be_the_end_of_a_curve(scores):
    found = find_jump(study_of(*scores), TASK, resamples=300)
    assert (found.shape, found.p_gradual) == ("gradual", 1.0)
