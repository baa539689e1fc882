"""The linear level has a known gradient, learns a rule, and can be saved."""

from __future__ import annotations

import time

import numpy as np

from telltune.research.streams.levels import LinearLevel

WORDS = ("apple", "bolt", "cloud")


def texts(count: int, seed: int) -> tuple[list[str], list[int]]:
    """Return texts of noise with one rare word, which is the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).tolist()
    noise = [" ".join(f"w{n}" for n in rng.integers(0, 200, 8)) for _ in labels]
    return [f"{n} {WORDS[k]} x" for n, k in zip(noise, labels, strict=True)], labels


def test_before_it_has_learned_all_labels_are_as_likely() -> None:
    np.testing.assert_allclose(LinearLevel(4).likelihoods(["a", "b c"]), 0.25)


def test_one_step_is_adagrads_on_the_cross_entropy() -> None:
    level = LinearLevel(2, features=2**10, learning_rate=0.5)
    level.learn(["word"], [1])
    # The gradient of one word of length 1 is p - y; AdaGrad's first step is the rate itself.
    moved = np.flatnonzero(np.abs(level.weights).sum(1))
    assert len(moved) == 1
    np.testing.assert_allclose(level.weights[moved[0]], [-0.5, 0.5], rtol=1e-4)
    np.testing.assert_allclose(level.bias, [-0.5, 0.5], rtol=1e-4)


def test_it_learns_online() -> None:
    level = LinearLevel(3)
    train, labels = texts(400, seed=0)
    for start in range(0, 400, 8):
        level.learn(train[start : start + 8], labels[start : start + 8])
    test, wanted = texts(200, seed=1)
    likely = level.likelihoods(test)
    np.testing.assert_allclose(likely.sum(1), 1)
    assert (likely.argmax(1) == wanted).mean() > 0.95


def test_its_state_makes_the_same_level() -> None:
    level, other = LinearLevel(3), LinearLevel(3)
    train, labels = texts(80, seed=2)
    level.learn(train[:40], labels[:40])
    other.learn(train[40:], labels[40:])
    other.restore(level.state())
    for one in (level, other):
        one.learn(train[40:48], labels[40:48])
    np.testing.assert_array_equal(level.likelihoods(train), other.likelihoods(train))


def test_two_thousand_a_second_and_more() -> None:
    level = LinearLevel(3)
    level.learn(*texts(64, seed=3))
    many, _ = texts(4000, seed=4)
    began = time.process_time()
    for start in range(0, len(many), 32):
        level.likelihoods(many[start : start + 32])
    assert len(many) / (time.process_time() - began) > 2000
