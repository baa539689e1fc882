import math
import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from telltune.data import permutation
from telltune.data.permutation import MAX_SIZE, Permutation, derive_keys, hash64

# Seeds are fixed, so a statistical test always gives the same result. A real fault gives
# a p-value far below this.
CHANCE = 1e-3

PINNED_TABLE = [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
PINNED_NETWORK = [41589288, 32985581, 50672879, 19744976]


@pytest.fixture
def network_only(monkeypatch):
    """Use the Feistel network also for small sizes, where a flaw shows."""
    monkeypatch.setattr(permutation, "_TABLE_SIZE", 0)


def parity(order):
    """Return 0 for an even permutation and 1 for an odd one: size minus number of cycles."""
    seen, cycles = set(), 0
    for start in range(len(order)):
        if start not in seen:
            cycles += 1
            while start not in seen:
                seen.add(start)
                start = order[start]
    return (len(order) - cycles) % 2


def whole(size, key=0, stream=()):
    return Permutation(size, key, stream)[np.arange(size)]


@given(size=st.integers(1, 3000), key=st.integers(0, 2**70))
@settings(max_examples=50)
def test_every_number_appears_once(size, key):
    order = Permutation(size, key)
    numbers = order[np.arange(size)]
    assert numbers.dtype == np.int64
    assert sorted(numbers.tolist()) == list(range(size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 255, 1000, 4096])
def test_the_network_is_a_permutation_of_small_sizes_too(network_only, size):
    order = Permutation(size, key=3)
    numbers = order[np.arange(size)]
    assert sorted(numbers.tolist()) == list(range(size))


@pytest.mark.parametrize("size", [2**16, 2**16 + 1, 2**17, 99_991])
def test_every_number_appears_once_where_the_table_ends(size):
    assert (np.sort(whole(size)) == np.arange(size)).all()


@pytest.mark.parametrize("size", [10**8, 2**31 + 11, MAX_SIZE - 1, MAX_SIZE])
def test_large_sizes_stay_in_range(size):
    positions = np.unique(np.random.default_rng(0).integers(0, size, 20_000))
    positions = np.append(positions, [0, size - 1])
    order = Permutation(size, key=1)
    numbers = order[positions]
    assert numbers.min() >= 0
    assert numbers.max() < size
    assert len(np.unique(numbers)) == len(np.unique(positions))


def test_one_position_reads_like_many_in_any_shape():
    order = Permutation(10**6, key=5)
    positions = np.arange(40_000).reshape(4, 100, 100)
    numbers = order[positions]
    assert numbers.shape == positions.shape
    assert order[positions[2, 3, 4]] == numbers[2, 3, 4]
    assert order[[7]] == order[np.array([7], dtype=np.uint8)]
    assert order[[]].shape == (0,)


def test_the_order_is_pinned():
    """A change of the order breaks every run that is resumed."""
    assert whole(10, key=0).tolist() == PINNED_TABLE
    assert Permutation(10**8, key=0, stream=(3, 1))[np.arange(4)].tolist() == PINNED_NETWORK


def test_key_and_stream_change_the_order():
    orders = [
        whole(1000, *which).tolist()
        for which in ((0, ()), (1, ()), (2**32, ()), (0, (0,)), (0, (1,)), (0, (0, 1)), (0, (1, 0)))
    ]
    assert len({tuple(order) for order in orders}) == len(orders)
    assert orders[0] == whole(1000, 0).tolist()


@pytest.mark.parametrize("size", [0, -1, MAX_SIZE + 1])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"not {size}"):
        Permutation(size, key=0)


@pytest.mark.parametrize("size", [10, 10**6])
@pytest.mark.parametrize("positions", [[-1], [0, 10**6]])
def test_positions_outside_are_refused(size, positions):
    with pytest.raises(IndexError):
        Permutation(size, key=0)[positions]


def check_all_orders_of_five_are_equally_likely():
    count = dict.fromkeys(permutations(range(5)), 0)
    for key in range(720):
        count[tuple(whole(5, key).tolist())] += 1
    assert stats.chisquare(list(count.values())).pvalue > CHANCE


def test_all_orders_of_five_are_equally_likely():
    check_all_orders_of_five_are_equally_likely()


def test_the_network_makes_all_orders_of_five_equally_likely(network_only):
    check_all_orders_of_five_are_equally_likely()


@pytest.mark.parametrize("table", [True, False])
def test_any_place_of_a_thousand_holds_any_number(monkeypatch, table):
    if not table:
        monkeypatch.setattr(permutation, "_TABLE_SIZE", 0)
    at = np.array([0, 1, 499, 998, 999])
    numbers = np.array([Permutation(1000, key)[at] for key in range(750)])
    for place in range(len(at)):
        count = np.bincount(numbers[:, place] // 20, minlength=50)
        assert stats.chisquare(count).pvalue > CHANCE
    # Neighbors are independent, except that they differ.
    cells = numbers[:, 0] // 200 * 5 + numbers[:, 1] // 200
    expected = np.full((5, 5), 200 * 200) - np.eye(5) * 200
    expected *= len(numbers) / expected.sum()
    assert stats.chisquare(np.bincount(cells, minlength=25), expected.ravel()).pvalue > CHANCE


def test_large_orders_look_uniform_over_keys_and_within_one():
    size = 10**8
    at = np.array([0, 1, 12_345_678, size - 1])
    numbers = np.array([Permutation(size, key)[at] for key in range(500)]) / size
    for place in range(len(at)):
        assert stats.kstest(numbers[:, place], "uniform").pvalue > CHANCE
    assert stats.spearmanr(numbers[:, 0], numbers[:, 1]).pvalue > CHANCE
    run = Permutation(size, key=0)[np.arange(50_000)] / size
    assert stats.kstest(run, "uniform").pvalue > CHANCE
    assert stats.spearmanr(run[:-1], run[1:]).pvalue > CHANCE
    assert stats.spearmanr(run, np.arange(len(run))).pvalue > CHANCE


@pytest.mark.parametrize("size", [5, 15, 16, 64, 225])
def test_parity_is_not_fixed(network_only, size):
    odd = sum(parity(whole(size, key).tolist()) for key in range(200))
    assert stats.binomtest(odd, 200).pvalue > CHANCE


def test_parity_is_not_fixed_for_tables():
    odd = sum(parity(whole(16, key).tolist()) for key in range(200))
    assert stats.binomtest(odd, 200).pvalue > CHANCE


def test_fixed_points_are_as_many_as_chance_has_them(network_only):
    """The number of fixed points of a uniform order is Poisson with mean 1."""
    keys = 400
    fixed = [int((whole(100, key) == np.arange(100)).sum()) for key in range(keys)]
    count = np.bincount(np.minimum(fixed, 5), minlength=6)
    share = [math.exp(-1) / math.factorial(k) for k in range(5)]
    assert stats.chisquare(count, np.array([*share, 1 - sum(share)]) * keys).pvalue > CHANCE


def test_memory_does_not_grow_with_the_size():
    tracemalloc.start()
    Permutation(MAX_SIZE, key=0)[np.arange(1000)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_hashes_are_spread_evenly_and_depend_on_the_key():
    keys = derive_keys(0, (1, 2), 2)
    values = np.arange(20_000, dtype=np.uint64)
    first, second = (hash64(values, key) for key in keys)
    assert len(np.unique(first)) == len(values)
    assert (first != second).all()
    for bit in (0, 31, 63):
        ones = int(((first >> np.uint64(bit)) & np.uint64(1)).sum())
        assert stats.binomtest(ones, len(values)).pvalue > CHANCE
    assert (values == np.arange(20_000)).all()
