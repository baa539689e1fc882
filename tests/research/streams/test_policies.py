"""Thresholds keep what they promise, and the published decay is scaled to the stream."""

from __future__ import annotations

import math

import numpy as np
import pytest

from telltune.research.streams.policies import Promised, scaled_decay
from telltune.research.streams.records import Judged

INPUTS = 1500


def run(promise: float, seed: int, *, floor: float = 0.0) -> tuple[float, float]:
    """Return the agreement on one stream, and the share that its only level answers.

    Args:
        promise: Promised agreement.
        seed: Seed of the stream and of the policy.
        floor: Rate of disagreements where the level is certain.
    """
    rng = np.random.default_rng(seed)
    confidence = 0.5 + 0.5 * rng.beta(3, 0.7, INPUTS)
    wrong = rng.random(INPUTS) < floor + 0.6 * (2 * (1 - confidence)) ** 1.5
    policy = Promised(1, promise, cheapest=False, seed=seed)
    answered = disagreed = labeled = 0
    for place in range(INPUTS):
        likely = [float(confidence[place]), float(1 - confidence[place])]
        sampled = bool(policy.sampled([place], [0])[0])
        policy.count(sampled=sampled)
        if not sampled and policy.answers(0, np.array([likely]), [place], 0)[0]:
            answered += 1
            disagreed += int(wrong[place])
            continue
        policy.observe(Judged([likely], int(wrong[place])), sampled=sampled)
        labeled += 1
        if labeled % 8 == 0:
            policy.update([], 8, [0.01])
    return 1 - disagreed / INPUTS, answered / INPUTS


@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_promised_98_percent_are_kept_in_95_percent_of_streams(floor: float) -> None:
    found = [run(0.98, seed, floor=floor) for seed in range(40)]
    assert np.mean([agreement >= 0.98 for agreement, _ in found]) >= 0.95
    # Asking the top about everything would keep the promise too.
    assert np.mean([answered for _, answered in found]) > (0.4 if floor == 0 else 0.15)


def test_a_level_that_is_wrong_at_random_never_answers_for_long() -> None:
    rng = np.random.default_rng(0)
    policy = Promised(1, 0.98, cheapest=False, seed=0)
    answered = 0
    for place in range(2000):
        likely = [0.9, 0.1] if rng.random() < 0.5 else [0.8, 0.2]
        sampled = bool(policy.sampled([place], [0])[0])
        policy.count(sampled=sampled)
        if not sampled and policy.answers(0, np.array([likely]), [place], 0)[0]:
            answered += 1
        else:
            policy.observe(Judged([likely], int(rng.random() < 0.3)), sampled=sampled)
            policy.update([], 1, [0.01])
    assert answered == 0


def filled(policy: Promised, likely: list[list[float] | None], label: int, count: int) -> None:
    for _ in range(count):
        policy.count(sampled=True)
        policy.observe(Judged(likely, label), sampled=True)


def test_its_first_limit_is_the_binomial_one() -> None:
    # Without an error among n inputs the limit is 1 - 0.05^(1/n): 149 inputs for 2%. The inputs so
    # far were all labeled by the top, so that twice the rate is left for as many again: 74 inputs.
    policy = Promised(1, 0.98, cheapest=False, seed=0)
    least = math.ceil(math.log(0.05) / math.log(1 - 0.04))
    filled(policy, [[0.9, 0.1]], 0, least - 1)
    policy.update([], 8, [0.01])
    assert policy.thresholds == [math.inf]
    filled(policy, [[0.9, 0.1]], 0, 1)
    policy.update([], 8, [0.01])
    assert policy.thresholds == [0.0]


def test_a_threshold_is_above_the_most_certain_error() -> None:
    policy = Promised(1, 0.98, cheapest=False, seed=0)
    filled(policy, [[0.9, 0.1]], 0, 99)
    filled(policy, [[0.7, 0.3]], 1, 1)
    policy.update([], 8, [0.01])
    assert policy.thresholds == [0.7]
    assert policy.answers(0, np.array([[0.7, 0.3], [0.71, 0.29]]), [0, 1], 0).tolist() == [
        False,
        True,
    ]


def test_the_cheapest_thresholds_skip_a_level_that_costs_more_than_it_saves() -> None:
    # The first level is certain of a fifth of the inputs, and the second one is always right.
    for cost, thresholds in ((0.001, [0.6, 0.0]), (0.5, [math.inf, 0.0])):
        policy = Promised(2, 0.9, cheapest=True, seed=0)
        filled(policy, [[0.9, 0.1], [0.9, 0.1]], 0, 20)
        filled(policy, [[0.6, 0.4], [0.9, 0.1]], 0, 60)
        filled(policy, [[0.6, 0.4], [0.1, 0.9]], 1, 20)
        policy.update([], 8, [cost, 0.2])
        assert policy.thresholds == thresholds


def test_if_no_level_pays_only_the_sample_is_left() -> None:
    policy = Promised(1, 0.9, cheapest=True, seed=0)
    assert policy.sampled(range(500), [0]).all()
    filled(policy, [[0.9, 0.1]], 0, 100)
    policy.update([], 8, [1.0])
    assert policy.thresholds == [math.inf]
    assert not policy.asks(0)
    assert 10 < policy.sampled(range(500), [0]).sum() < 45


def test_the_decay_is_scaled_to_the_stream() -> None:
    # The published values for 25,000 inputs are .99, .97 and .95.
    assert [scaled_decay(25_000, cache) for cache in (8, 16, 32)] == pytest.approx(
        [0.9905, 0.981, 0.9624], abs=1e-3
    )
    # After a tenth of the labels, 5% of the draws fail.
    assert scaled_decay(1600, 8) ** 20 == pytest.approx(0.05)
    assert scaled_decay(10, 8) == 0.05
