"""Baselines are levels that are refitted to the top model's labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from telltune.classifiers.features import EncoderFeatures
from telltune.research.streams.heads import HeadLevel

if TYPE_CHECKING:
    from telltune.research.streams.spec import HeadKind

WORDS = (("sunny", "rain", "wind"), ("goal", "match", "league"), ("bread", "soup", "cheese"))
KINDS: tuple[HeadKind, ...] = (
    "tfidf_linear",
    "tfidf_em",
    "encoder_linear",
    "encoder_centroid",
    "encoder_em",
)


def texts(count: int, seed: int) -> tuple[list[str], list[int]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).tolist()
    pairs = [" and ".join(rng.permutation(WORDS[label])[:2]) for label in labels]
    return [f"{pair} {rng.integers(99)}" for pair in pairs], labels


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_as_labels_come_and_can_be_saved(kind: HeadKind) -> None:
    level, other = HeadLevel(kind, 4), HeadLevel(kind, 4)
    train, labels = texts(32, seed=0)
    np.testing.assert_array_equal(level.likelihoods(train[:8]), 0.25)
    # One label is not enough to choose between labels.
    level.learn(train[:1], labels[:1])
    np.testing.assert_array_equal(level.likelihoods(["rain"]), 0.25)
    for start in range(8, 32, 8):
        part = slice(start, start + 8)
        level.likelihoods(train[part])
        level.learn(train[part], labels[part])
    test, wanted = texts(30, seed=1)
    likely = level.likelihoods(test)
    np.testing.assert_allclose(likely.sum(1), 1)
    assert (likely.argmax(1) == wanted).mean() > 0.9
    assert not likely[:, 3].any()
    other.restore(level.state())
    for one in (level, other):
        one.learn(train[:8], labels[:8])
    np.testing.assert_array_equal(level.likelihoods(test), other.likelihoods(test))


def test_vectors_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    level = HeadLevel("encoder_em", 3)
    asked: list[str] = []
    original = EncoderFeatures.__call__

    def watched(self: EncoderFeatures, texts: list[str]) -> Any:
        asked.extend(texts)
        return original(self, texts)

    monkeypatch.setattr(EncoderFeatures, "__call__", watched)
    train, labels = texts(16, seed=2)
    level.likelihoods(train)
    level.learn(train[:8], labels[:8])
    level.learn(train[8:], labels[8:])
    assert asked == train


def test_a_long_stream_without_labels_needs_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telltune.research.streams.heads._INPUTS", 50)
    seen, _ = texts(600, seed=2)
    states = []
    for block in (1, 40):
        level = HeadLevel("tfidf_em", 3)
        for start in range(0, len(seen), block):
            level.likelihoods(seen[start : start + block])
            assert len(level.state()["inputs"]) <= 2 * 50 + block
        level.learn(["rain", "goal"], [0, 1])
        states.append(level.state()["inputs"])
    assert states[0] == states[1]
    assert len(states[0]) == 50
