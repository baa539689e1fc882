"""Heads choose among answers by a linear function of vectors."""

from __future__ import annotations

import numpy as np
import pytest

from telltune.classifiers.heads import LinearScorer, fit_head


def test_confidence_is_the_softmax_of_the_best_answer() -> None:
    scorer = LinearScorer(np.eye(3), np.array([0.0, 0.0, 1.0]), ("a", "b", "c"))
    vectors = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    exact = np.exp(scorer.scores(vectors))
    exact /= exact.sum(axis=1, keepdims=True)
    assert scorer.best(vectors) == ["a", "c"]
    assert np.allclose(scorer.confidence(vectors), exact.max(axis=1))


@pytest.mark.parametrize("head", ["centroid", "em", "linear", "nearest"])
def test_every_head_knows_groups_that_lie_apart(head: str) -> None:
    rng = np.random.default_rng(0)
    middle = np.eye(3)[[0, 1, 2] * 6] + 0.1 * rng.normal(size=(18, 3))
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    answers = ["a", "b", "c"] * 6
    scorer = fit_head(head, "encoder", middle[:9], answers[:9], middle[9:])  # type: ignore[arg-type]
    assert scorer.best(middle[9:]) == answers[9:]


@pytest.mark.parametrize("head", ["centroid", "em", "linear", "nearest"])
@pytest.mark.parametrize("features", ["encoder", "tfidf", "states"])
def test_every_head_answers_the_one_label_that_it_knows(head: str, features: str) -> None:
    vectors = np.eye(4)
    scorer = fit_head(head, features, vectors[:2], ["a", "a"], vectors[2:])  # type: ignore[arg-type]
    assert scorer.best(vectors) == ["a"] * 4
    assert scorer.confidence(vectors).tolist() == [1.0] * 4 or head == "nearest"


def test_states_of_any_scale_and_middle_give_the_same_answers() -> None:
    numbers = np.random.default_rng(0)
    vectors, others = numbers.normal(size=(2, 12, 6))
    answers = list("abc" * 4)
    scales, shift = 10.0 ** numbers.integers(-2, 4, 6), 100 * numbers.normal(size=6)
    plain = fit_head("linear", "states", vectors, answers).best(others)
    moved = fit_head("linear", "states", vectors * scales + shift, answers)
    assert moved.best(others * scales + shift) == plain
    mean, deviation = vectors.mean(0), vectors.std(0)
    standard = fit_head("linear", "encoder", (vectors - mean) / deviation, answers)
    assert standard.best((others - mean) / deviation) == plain
