"""The deferral loss is as published, and its minimum is where it should be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from telltune.research.streams.deferral import Deferral


def test_the_loss_is_the_published_sum() -> None:
    deferral = Deferral(2, [0.4, 0.3], price=0.5, seed=1)
    first, second = np.array([[0.9, 0.1]]), np.array([[0.2, 0.8]])
    labels = np.array([1])
    d = [deferral.defers(0, first)[0], deferral.defers(1, second)[0]]
    # The first is wrong (its target is 1), the second right (its target is its calibration).
    wanted = (d[0] - 1) ** 2 + (1 - d[0]) * -math.log(0.1) + d[0] * 0.5 * 0.25
    wanted += (d[1] - 0.3) ** 2 + d[0] * ((1 - d[1]) * -math.log(0.8) + d[1] * 0.5 * 1.0)
    assert deferral.learn([first, second], labels, [0.25, 1.0]) == pytest.approx(wanted, rel=1e-4)


def test_it_learns_to_hand_on_what_is_unsure() -> None:
    rng = np.random.default_rng(0)
    deferral = Deferral(2, [0.4], price=0.3, learning_rate=5e-3)
    for _ in range(400):
        sure = rng.random(16) < 0.5
        guess = rng.integers(0, 2, 16)
        high = np.where(sure, 0.97, 0.55)
        likely = np.stack(
            [np.where(guess == 0, high, 1 - high), np.where(guess == 1, high, 1 - high)], 1
        )
        # Certain answers are right; the others are right half of the time.
        labels = np.where(sure | (rng.random(16) < 0.5), guess, 1 - guess)
        deferral.learn([likely], labels, [1.0])
    assert deferral.defers(0, np.array([[0.97, 0.03], [0.03, 0.97]])).max() < 0.5
    assert deferral.defers(0, np.array([[0.55, 0.45], [0.45, 0.55]])).min() > 0.5


def test_its_state_makes_the_same_networks() -> None:
    one, other = Deferral(2, [0.4], seed=1), Deferral(2, [0.4], seed=2)
    likely, labels = np.array([[0.6, 0.4]]), np.array([0])
    one.learn([likely], labels, [1.0])
    other.restore(one.state())
    for deferral in (one, other):
        deferral.learn([likely], labels, [1.0])
    assert one.defers(0, likely) == other.defers(0, likely)
