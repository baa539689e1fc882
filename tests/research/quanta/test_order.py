"""The times and orders in which quanta are learned have known answers and error rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from telltune.errors import DataError
from telltune.research.quanta.losses import LossCurves
from telltune.research.quanta.order import Quanta, compare_orders, kendall_tau, learned_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

INF, NAN = np.inf, np.nan


def test_learned_half_way_between_start_and_reference_end() -> None:
    steps = np.array([0, 10, 20, 40])
    levels = np.array(
        [
            [0.0, 0.2, 0.6, 0.8],  # half of 0.8 is 0.4, in the middle of 10 and 20
            [0.0, 0.0, 0.0, 0.8],  # in the middle of 20 and 40
            [0.0, 0.6, 0.1, 0.8],  # the first time counts
            [0.0, 0.2, 0.3, 0.39],  # never
            [0.4, 0.5, 0.6, 0.8],  # the start counts: half of the way is 0.6
            [0.0, NAN, NAN, NAN],
        ]
    )
    ends = np.array([0.8] * 5 + [NAN])
    wanted = [15, 30, 20 / 3, INF, 20, NAN]
    assert learned_at(steps, levels, ends) == pytest.approx(wanted, nan_ok=True)


def test_what_begins_above_the_end_is_learned_at_the_start() -> None:
    assert learned_at(np.array([0, 5]), np.array([[0.5, 1.0]]), np.array([0.2])) == 0


def test_tau_is_scipys_ties_included() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (2, 30, 9)).astype(float)
    wanted = [kendalltau(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert kendall_tau(a, b) == pytest.approx(wanted)


def test_what_was_never_learned_comes_last_and_in_no_order() -> None:
    reference = np.array([1.0, 2.0, 3.0, 4.0])
    assert kendall_tau(np.array([1.0, 2.0, INF, INF]), reference) == pytest.approx(5 / 30**0.5)
    assert kendall_tau(np.array([INF, 2.0, 3.0, 4.0]), reference) == 0
    # A quantum that was not learned is in no pair.
    assert kendall_tau(np.array([1.0, 2.0, NAN, 4.0]), reference) == pytest.approx(3 / 18**0.5)


@pytest.mark.parametrize("order", [[INF] * 3, [5.0] * 3, [1.0, NAN, NAN]])
def test_no_order_has_no_tau(order: list[float]) -> None:
    assert np.isnan(kendall_tau(np.array(order), np.array([1.0, 2.0, 3.0])))


def simulated(
    rng: np.random.Generator, times: NDArray[Any], steps: NDArray[Any], per: int = 8
) -> LossCurves:
    """Return losses of tokens that are learned at about the time of their cluster."""
    at = np.repeat(times, per) + rng.normal(0, 1, len(times) * per)
    level = 0.02 + 0.96 / (1 + np.exp((at - steps[:, None]) / 1.5))
    return LossCurves(steps, -np.log(level) + rng.normal(0, 0.05, level.shape))


def quanta(rng: np.random.Generator, times: NDArray[Any], per: int = 8, items: int = 40) -> Quanta:
    labels = np.repeat(np.arange(len(times)), per)
    reference = simulated(rng, times, np.arange(0, 61, 5))
    return Quanta(rng.integers(0, items, len(labels)), labels, reference)


def test_the_same_order_agrees_and_the_opposite_one_does_not() -> None:
    rng = np.random.default_rng(1)
    times = np.linspace(8, 50, 10)
    clusters = quanta(rng, times)
    # A third of the reference's length and steps.
    runs = [simulated(rng, t, np.arange(21)) for t in (times / 3, times[::-1] / 3)]
    same, opposite = compare_orders(clusters, runs, resamples=300)
    assert same.learned == pytest.approx(times / 3, abs=1)
    assert same.tau > 0.9
    assert same.low > 0.8
    assert (same.difference, same.difference_low, same.difference_high) == (0, 0, 0)
    assert opposite.tau < -0.9
    assert opposite.high < -0.8
    assert opposite.difference_high < -1.5


def test_a_run_that_learns_nothing_has_no_tau() -> None:
    rng = np.random.default_rng(1)
    times = np.linspace(8, 50, 5)
    clusters = quanta(rng, times)
    [nothing] = compare_orders(clusters, [simulated(rng, times + 1000, np.arange(9))], resamples=50)
    assert np.isinf(nothing.learned).all()
    assert np.isnan([nothing.tau, nothing.low, nothing.high]).all()


def test_results_are_a_function_of_the_seed() -> None:
    rng = np.random.default_rng(1)
    times = rng.uniform(8, 50, 6)
    clusters, run = quanta(rng, times), simulated(rng, times / 3 + 2, np.arange(21))
    one, again = (compare_orders(clusters, [run], resamples=100)[0] for _ in range(2))
    [other] = compare_orders(clusters, [run], resamples=100, seed=1)
    assert (one.low, one.high) == (again.low, again.high) != (other.low, other.high)


def test_intervals_of_unrelated_orders_hold_zero() -> None:
    """Three of 60 intervals at 95% should miss; more than eight do in less than 1 of 100 tests."""
    misses = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        clusters = quanta(rng, rng.uniform(8, 50, 10))
        run = simulated(rng, rng.uniform(3, 17, 10), np.arange(0, 21, 2))
        [found] = compare_orders(clusters, [run], resamples=200)
        misses += not found.low <= 0 <= found.high
        # The intervals are also narrow enough to be useful.
        assert found.high - found.low < 1.7
    assert misses <= 8


def test_one_quantum_is_no_order() -> None:
    with pytest.raises(DataError, match="at least two quanta"):
        quanta(np.random.default_rng(0), np.array([20.0]))
