"""Items are sorted by how they change, and jumps are distinguished from steady changes."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from telltune.study.statistics.item_changes import ItemChanges, count_changes, sort_items

COURSES = {
    "always": (100, 67, 100, 100),
    "never": (0, 33, 0, 50),
    "at_jump": (0, 33, 100, 67),
    "elsewhere": (0, 0, 0, 100),
    "gradually": (0, 33, 67, 100),
    "against": (100, 100, 0, 0),
    "wavering": (0, 100, 0, 100),
}


@pytest.mark.parametrize("name", COURSES)
def test_each_course_has_its_name(name: str) -> None:
    scores = np.array([COURSES[name]], float).T
    none = dict.fromkeys(COURSES, 0)
    assert count_changes(scores, 1, rising=True) == ItemChanges(**none | {name: 1})


def test_where_the_score_falls_a_fall_goes_with_it() -> None:
    scores = np.array(list(COURSES.values()), float).T
    found = count_changes(scores, 1, rising=False)
    assert (found.at_jump, found.elsewhere, found.against) == (1, 0, 3)


def test_an_item_of_one_seed_changes_at_once_or_not_at_all() -> None:
    right = 100.0 * (np.random.default_rng(0).random((6, 300)) < 0.5)
    assert count_changes(right, 2, rising=True).gradually == 0


@given(
    arrays(float, (5, 30), elements=st.sampled_from([0.0, 33.0, 67.0, 100.0])),
    st.integers(0, 3),
    st.booleans(),
)
@settings(max_examples=60)
def test_each_item_is_counted_once_and_right_and_wrong_are_alike(
    scores: np.ndarray, place: int, rising: bool
) -> None:
    found = count_changes(scores, place, rising=rising)
    assert sum(astuple(found)) == 30
    turned = count_changes(100 - scores, place, rising=not rising)
    assert (turned.never, turned.always, *astuple(turned)[2:]) == astuple(found)


def test_items_stand_by_the_size_from_which_on_they_are_right() -> None:
    late, lost, early, always, late_but_half = (
        (0, 0, 0, 100),
        (100, 100, 100, 0),
        (0, 100, 100, 100),
        (100, 100, 100, 100),
        (50, 50, 0, 100),
    )
    scores = np.array([late, lost, early, always, late_but_half], float).T
    assert sort_items(scores) == [3, 2, 4, 0, 1]


def test_a_jump_of_items_is_told_from_a_mean_that_only_adds_up() -> None:
    """Both means rise by some 20 points; in one of them, 40 of 200 items jump in 3 seeds."""
    rng = np.random.default_rng(1)
    seeds, items = 3, 200
    sure = np.where(rng.random(items) < 0.4, 0.97, 0.03)
    jumping = np.tile(sure, (6, 1))
    jumping[:3, :40], jumping[3:, :40] = 0.03, 0.97
    logits = rng.normal(-0.5, 1.5, items) + np.linspace(0, 1.2, 6)[:, None]
    steady = 1 / (1 + np.exp(-logits))
    counts = []
    for chances in (jumping, steady):
        right = rng.random((seeds, *chances.shape)) < chances
        counts.append(count_changes(100.0 * right.mean(axis=0), 2, rising=True))
    jump, course = counts
    assert jump.at_jump > 35
    assert jump.at_jump > 0.8 * (jump.at_jump + jump.elsewhere + jump.gradually)
    assert course.at_jump < 0.35 * (course.at_jump + course.elsewhere + course.gradually)
