"""The weight of each response token has known values for each average."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.data.mixture import Mixture
from telltune.training.training_data import LossWeights

IS_TASK = np.array([True, False, False])
LENGTHS = np.array([2, 3, 5])


def test_token_average() -> None:
    np.testing.assert_allclose(LossWeights("token").of(IS_TASK, LENGTHS), [0.1, 0.1, 0.1])
    # 2 tokens of weight 4 and 8 of weight 1 add up to 16.
    weighted = LossWeights("token", task_weight=4.0).of(IS_TASK, LENGTHS)
    np.testing.assert_allclose(weighted, [4 / 16, 1 / 16, 1 / 16])


def test_example_average() -> None:
    plain = LossWeights("example").of(IS_TASK, LENGTHS)
    np.testing.assert_allclose(plain, [1 / 6, 1 / 9, 1 / 15])
    weighted = LossWeights("example", task_weight=2.0).of(IS_TASK, LENGTHS)
    np.testing.assert_allclose(weighted, [2 / 4 / 2, 1 / 4 / 3, 1 / 4 / 5])


def test_source_average() -> None:
    # Task data are a quarter of the mixture, and a third of this step.
    weights = LossWeights("source", task_weight=3.0, general_weight=1.0, task_share=0.25)
    expected = [3 / (0.25 * 4 * 3 * 2), 1 / (0.75 * 4 * 3 * 3), 1 / (0.75 * 4 * 3 * 5)]
    np.testing.assert_allclose(weights.of(IS_TASK, LENGTHS), expected)


STEPS = st.lists(st.tuples(st.booleans(), st.integers(1, 300)), min_size=1, max_size=20)
WEIGHT = st.floats(0.01, 100)


@settings(max_examples=60)
@given(st.sampled_from(["token", "example"]), STEPS, WEIGHT, WEIGHT)
def test_a_step_weighs_one_in_all(
    average: str, step: list[tuple[bool, int]], task: float, general: float
) -> None:
    is_task, lengths = (np.array(column) for column in zip(*step, strict=True))
    weights = LossWeights(average, task, general).of(is_task, lengths)  # type: ignore[arg-type]
    assert (weights > 0).all()
    assert (weights * lengths).sum() == pytest.approx(1)


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 40), WEIGHT, WEIGHT, st.integers(0, 9))
def test_over_a_mixture_the_sources_share_as_their_weights(
    task_examples: int, passes: int, general: int, task: float, other: float, seed: int
) -> None:
    size = task_examples * passes + general
    batch_size = next(n for n in (4, 3, 2, 1) if size % n == 0)
    mixture = Mixture(task_examples, general, general, passes, "shuffled", seed, batch_size)
    weights = LossWeights("source", task, other, task_examples * passes / size)
    shares = {True: 0.0, False: 0.0}
    for is_task, index in mixture.batches(0):
        lengths = 1 + index % 7
        counted = weights.of(is_task, lengths) * lengths
        for kind in shares:
            shares[kind] += counted[is_task == kind].sum()
    assert shares[True] / sum(shares.values()) == pytest.approx(task / (task + other))
    # The mean weight of a step is one, so that the learning rate has its usual meaning.
    assert sum(shares.values()) / mixture.batches_per_epoch == pytest.approx(1)


@pytest.mark.parametrize("kind", [True, False])
def test_one_source_alone_is_the_average_over_examples(kind: bool) -> None:
    is_task = np.full(3, kind)
    source = LossWeights("source", 5.0, 0.5, task_share=float(kind)).of(is_task, LENGTHS)
    np.testing.assert_allclose(source, LossWeights("example").of(is_task, LENGTHS))
