"""Unlabeled vectors move the class means to where the data are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from telltune.classifiers.seeded_em import class_means, class_prior, seeded_em, shares


def on_circle(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_means_have_length_1_and_point_between_their_examples() -> None:
    means = class_means(on_circle(0, 20, 90), np.array([0, 0, 1]), 2)
    assert np.allclose(means, on_circle(10, 90))


def test_unlabeled_vectors_correct_a_misleading_labeled_one() -> None:
    rng = np.random.default_rng(0)
    around = np.concatenate([rng.normal(0, 5, 200), rng.normal(60, 5, 200)])
    unlabeled, truth = on_circle(*around), np.repeat([0, 1], 200)
    # The first labeled vector is far from its group, so the first border is wrong.
    vectors, targets = on_circle(-40, 45), np.array([0, 1])
    prior = np.array([0.5, 0.5])

    def right(means: np.ndarray) -> float:
        return float(((unlabeled @ means.T).argmax(axis=1) == truth).mean())

    before = class_means(vectors, targets, 2)
    after = seeded_em(vectors, targets, unlabeled, prior=prior, temperature=0.05)
    assert right(before) < 0.9 < right(after)
    angles = np.degrees(np.arctan2(after[:, 1], after[:, 0]))
    assert np.allclose(angles, [0, 60], atol=2)


def test_without_unlabeled_vectors_means_stay() -> None:
    vectors, targets = on_circle(0, 90), np.array([0, 1])
    found = seeded_em(
        vectors, targets, np.zeros((0, 2)), prior=np.array([0.5, 0.5]), temperature=0.1
    )
    assert np.allclose(found, vectors)


@given(st.integers(2, 6), st.integers(20, 60), st.integers(0, 2**32 - 1))
def test_shares_sum_to_one_by_row_and_to_the_prior_by_column(
    classes: int, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors, means = (rng.normal(size=(n, 4)) for n in (count, classes))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    prior = class_prior(rng.integers(0, classes, 30), classes)
    found = shares(vectors, means, prior=prior, temperature=0.5)
    assert np.allclose(found.sum(axis=1), 1)
    assert np.allclose(found.mean(axis=0), prior, atol=0.05)


def test_the_prior_counts_three_more_of_each_class() -> None:
    assert np.allclose(class_prior(np.array([0, 0, 1]), 3), [5 / 12, 4 / 12, 3 / 12])
