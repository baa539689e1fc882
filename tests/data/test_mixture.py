import tracemalloc
from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from telltune.data.choice import drawn_tokens, general_choice, size_general
from telltune.data.mixture import Mixture
from telltune.errors import DataError, RecipeError
from telltune.recipe import Order

# Seeds are fixed, so a statistical test always gives the same result. A real fault gives
# a p-value far below this.
CHANCE = 1e-3

ORDERS = get_args(Order)

PINNED = {
    "shuffled": [(False, 7), (False, 4), (False, 5), (False, 8), (False, 6), (True, 1), (True, 0)],
    "stratified": [
        (False, 4),
        (True, 1),
        (False, 8),
        (False, 6),
        (False, 7),
        (True, 0),
        (False, 5),
    ],
    "task_first": [
        (True, 1),
        (True, 0),
        (False, 4),
        (False, 8),
        (False, 6),
        (False, 7),
        (False, 5),
    ],
    "general_first": [
        (False, 4),
        (False, 8),
        (False, 6),
        (False, 7),
        (False, 5),
        (True, 1),
        (True, 0),
    ],
}


def mix(task=7, general=50, available=200, passes=3, order="shuffled", seed=0, batch_size=8):
    return Mixture(task, general, available, passes, order, seed, batch_size)


def epoch_of(mixture, epoch=0):
    is_task, index = mixture.slots(epoch, 0, len(mixture))
    return list(zip(is_task.tolist(), index.tolist(), strict=True))


def joined(batches):
    return [pair for batch in batches for pair in zip(*(a.tolist() for a in batch), strict=True)]


@st.composite
def mixtures(draw):
    task, general = draw(st.integers(0, 20)), draw(st.integers(0, 60))
    if task + general == 0:
        task = 1
    available = draw(st.integers(general, general + draw(st.sampled_from([0, 3, 300]))))
    return Mixture(
        task_examples=task,
        general_examples=general,
        general_available=available,
        passes=draw(st.integers(1, 5)),
        order=draw(st.sampled_from(ORDERS)),
        seed=draw(st.integers(0, 2**64)),
        batch_size=draw(st.integers(2, 40)),
        ranked=draw(st.booleans()),
    )


# Contents of an epoch


@given(mixture=mixtures(), epoch=st.integers(0, 6))
def test_every_example_appears_exactly_as_often_as_asked(mixture, epoch):
    slots = epoch_of(mixture, epoch)
    assert len(slots) == len(mixture)
    task = Counter(index for is_task, index in slots if is_task)
    assert task == dict.fromkeys(range(mixture.task_examples), mixture.passes)
    general = [index for is_task, index in slots if not is_task]
    assert len(general) == len(set(general)) == mixture.general_examples
    assert all(0 <= index < mixture.general_available for index in general)


@given(mixture=mixtures())
def test_no_general_example_comes_back_before_all_have_been_seen(mixture):
    often = Counter()
    for epoch in range(8):
        order = [index for is_task, index in epoch_of(mixture, epoch) if not is_task]
        assert len(set(order)) == len(order)
        often.update(order)
        seen = [often[index] for index in range(mixture.general_available)]
        assert max(seen, default=0) - min(seen, default=0) <= 1


def test_each_epoch_draws_on_the_data_evenly_also_across_a_seam():
    """Over seeds, all examples are equally likely in an epoch that starts the data again."""
    often = np.zeros(10)
    for seed in range(700):
        is_task, index = mix(task=1, general=7, available=10, passes=1, seed=seed).slots(1, 0, 8)
        often += np.bincount(index[~is_task], minlength=10)
    # A draw of 7 from 10 varies (1 - 7/10) * 10/9 = 1/3 as much as the chi-square law assumes.
    statistic = 3 * stats.chisquare(often).statistic
    assert stats.chi2(9).sf(statistic) > CHANCE


@pytest.mark.parametrize("order", ORDERS)
def test_same_seed_same_order_and_another_seed_or_epoch_another(order):
    assert epoch_of(mix(order=order)) == epoch_of(mix(order=order))
    assert epoch_of(mix(order=order)) != epoch_of(mix(order=order, seed=1))
    assert epoch_of(mix(order=order), 0) != epoch_of(mix(order=order), 1)


def test_the_order_is_pinned():
    """A change of the order breaks every run that is resumed."""
    assert {order: epoch_of(mix(2, 5, 9, 1, order, batch_size=4), 2) for order in ORDERS} == PINNED


def test_task_or_general_data_alone_is_a_mixture_too():
    assert all(is_task for is_task, _ in epoch_of(mix(general=0, available=0)))
    assert not any(is_task for is_task, _ in epoch_of(mix(task=0)))


# Orders


def runs_p_value(is_task):
    """Test one order against a uniform shuffle by its number of runs (Wald and Wolfowitz 1940)."""
    size, task = len(is_task), int(is_task.sum())
    product = 2 * task * (size - task)
    mean = 1 + product / size
    variance = product * (product - size) / (size**2 * (size - 1))
    runs = 1 + int((is_task[1:] != is_task[:-1]).sum())
    return float(2 * stats.norm.sf(abs(runs - mean) / variance**0.5))


def gap_p_value(orders):
    """Test many orders against a uniform shuffle by one gap between task examples per order.

    With T task slots among n, each of the T + 1 gaps holds g general slots with probability
    C(n - g - 1, T - 1) / C(n, T): the negative hypergeometric distribution with one success.
    """
    size, task = len(orders[0]), int(orders[0].sum())
    gaps = [np.diff(np.flatnonzero(o))[k % (task - 1)] - 1 for k, o in enumerate(orders)]
    law = stats.nhypergeom(size, size - task, 1)
    longest = int(law.ppf(0.95))
    # nhypergeom counts the successes (general slots) drawn before the first failure (task slot).
    expected = np.append(law.pmf(np.arange(longest)), law.sf(longest - 1)) * len(orders)
    observed = np.bincount(np.minimum(gaps, longest), minlength=longest + 1)
    return float(stats.chisquare(observed, expected).pvalue)


def masks(order, seeds=400):
    mixtures = (mix(10, 170, 170, 3, order, seed) for seed in range(seeds))
    return [mixture.slots(0, 0, 200).is_task for mixture in mixtures]


def test_gaps_between_task_examples_are_a_uniform_shuffles():
    assert gap_p_value(masks("shuffled")) > CHANCE


@pytest.mark.parametrize("order", ["task_first", "general_first", "stratified"])
def test_gaps_tell_the_other_orders_from_a_shuffle(order):
    assert gap_p_value(masks(order)) < 1e-9


@pytest.mark.parametrize(("task", "passes"), [(10, 3), (1000, 3), (100_000, 1)])
def test_runs_are_a_uniform_shuffles(task, passes):
    mixture = mix(task, 170_000, 170_000, passes)
    for epoch in range(3):
        assert runs_p_value(mixture.slots(epoch, 0, len(mixture)).is_task) > CHANCE


@pytest.mark.parametrize("order", ["task_first", "general_first"])
def test_runs_tell_one_part_after_the_other_from_a_shuffle(order):
    assert runs_p_value(mix(1000, 17_000, 17_000, 3, order).slots(0, 0, 20_000).is_task) < 1e-9


@pytest.mark.parametrize("epoch", [0, 1])
def test_all_orders_of_a_tiny_mixture_are_equally_likely(epoch):
    seen = Counter(tuple(epoch_of(mix(2, 2, 2, 1, seed=s), epoch)) for s in range(480))
    assert len(seen) == 24
    assert stats.chisquare(list(seen.values())).pvalue > CHANCE


@given(mixture=mixtures(), epoch=st.integers(0, 3))
def test_stratified_batches_hold_their_share_of_task_examples(mixture, epoch):
    mixture = Mixture(**{**vars(mixture), "order": "stratified"})
    share = mixture.passes * mixture.task_examples / len(mixture)
    for is_task, _ in mixture.batches(epoch):
        assert abs(is_task.sum() - share * len(is_task)) < 1


def test_stratified_places_are_random_inside_the_batch():
    mixture = mix(1000, 7000, 7000, 1, "stratified", batch_size=8)
    where = np.array([int(is_task.argmax()) for is_task, _ in mixture.batches(0)])
    assert stats.chisquare(np.bincount(where, minlength=8)).pvalue > CHANCE


def test_stratified_finishes_each_pass_in_its_own_random_order():
    task = [i for is_task, i in epoch_of(mix(100, 900, 900, 4, "stratified")) if is_task]
    passes = [tuple(task[start : start + 100]) for start in range(0, 400, 100)]
    assert all(sorted(one) == list(range(100)) for one in passes)
    assert len({*passes, tuple(range(100))}) == 5


@pytest.mark.parametrize("order", ORDERS)
def test_a_curriculum_goes_through_the_task_data_in_their_own_order(order):
    plain = mix(10, 300, 900, 3, order)
    ranked = replace(plain, ranked=True)
    assert [i for is_task, i in epoch_of(ranked, 2) if is_task] == [*range(10)] * 3
    # They have the places and the general examples that they would have had.
    places = [[task for task, _ in epoch_of(one, 2)] for one in (plain, ranked)]
    general = [[i for task, i in epoch_of(one, 2) if not task] for one in (plain, ranked)]
    assert places[0] == places[1]
    assert general[0] == general[1]


def test_stratified_scarce_task_examples_change_batches_between_epochs():
    mixture = mix(3, 500, 500, 1, "stratified")
    taken = {
        tuple(k for k, (is_task, _) in enumerate(mixture.batches(e)) if is_task.any())
        for e in range(5)
    }
    assert len(taken) > 1


@pytest.mark.parametrize(("order", "first"), [("task_first", True), ("general_first", False)])
def test_one_part_comes_first_and_each_is_shuffled(order, first):
    slots = epoch_of(mix(100, 100, 100, 1, order))
    assert [is_task for is_task, _ in slots] == [first] * 100 + [not first] * 100
    for part in (slots[:100], slots[100:]):
        index = [i for _, i in part]
        assert sorted(index) == list(range(100))
        assert abs(stats.spearmanr(index, range(100)).statistic) < 0.4


# Reading from any place


@given(mixture=mixtures(), epoch=st.integers(0, 4), data=st.data())
def test_a_stretch_is_a_slice_of_the_whole(mixture, epoch, data):
    start = data.draw(st.integers(0, len(mixture)))
    stop = data.draw(st.integers(start, len(mixture)))
    is_task, index = mixture.slots(epoch, start, stop)
    assert index.dtype == np.int64
    assert is_task.dtype == np.bool_
    whole = epoch_of(mixture, epoch)
    assert list(zip(is_task.tolist(), index.tolist(), strict=True)) == whole[start:stop]


@given(mixture=mixtures(), epoch=st.integers(0, 4))
def test_batches_are_stretches_of_the_whole(mixture, epoch):
    batches = list(mixture.batches(epoch))
    assert len(batches) == mixture.batches_per_epoch
    assert joined(batches) == epoch_of(mixture, epoch)
    assert {len(b.index) for b in batches[:-1]} <= {mixture.batch_size}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ranked", [False, True])
def test_batches_hold_together_across_chunks(order, ranked):
    mixture = replace(mix(1000, 30_000, 90_000, 2, order, batch_size=24), ranked=ranked)
    whole = epoch_of(mixture, 1)
    assert joined(mixture.batches(1)) == whole
    assert joined([mixture.slots(1, 17_000, 17_100)]) == whole[17_000:17_100]


@pytest.mark.parametrize("order", ORDERS)
def test_memory_does_not_grow_with_the_sizes(order):
    mixture = mix(10**5, 10**7, 3 * 10**7, 3, order, batch_size=64)
    tracemalloc.start()
    mixture.slots(2, 5_000_000, 5_001_000)
    list(islice(mixture.batches(2), 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (5, 4), (0, 72), (72, 72)])
def test_places_outside_are_refused(start, stop):
    with pytest.raises(IndexError):
        mix().slots(0, start, stop)


# Invalid settings


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"order": "stratified", "batch_size": 1}, RecipeError, "use `shuffled`"),
        ({"task": 0, "general": 0}, DataError, "from 1 to 2\\*\\*40 examples, not 0"),
        ({"general": 2**40, "available": 2**41}, DataError, "from 1 to 2"),
        ({"general": 201}, DataError, "needs 201 general examples, but 200 are available"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes, error, message):
    with pytest.raises(error, match=message):
        mix(**changes)


# Sizes by tokens


def starts(lengths):
    """Return where each example's tokens start, and where the last example ends."""
    return np.cumsum([0, *lengths])


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=80),
    task_tokens=st.integers(1, 500),
    ratio=st.floats(0, 50),
    seed=st.integers(0, 99),
)
def test_the_count_comes_nearest_to_the_wanted_tokens(lengths, task_tokens, ratio, seed):
    target = ratio * task_tokens
    if sum(lengths) < target:
        with pytest.raises(DataError):
            size_general(ratio, task_tokens, starts(lengths), seed)
        return
    chosen = size_general(ratio, task_tokens, starts(lengths), seed)
    order = general_choice(len(lengths), seed)[np.arange(len(lengths))]
    off = np.abs(np.append(0, np.cumsum(np.array(lengths)[order])) - target)
    assert chosen == off.argmin()


def test_lengths_are_looked_up_a_block_at_a_time(monkeypatch):
    lengths = np.random.default_rng(0).integers(20, 400, 500)
    drawn = lengths[general_choice(500, 3)[np.arange(500)]]
    counts = [size_general(ratio, 100, starts(lengths), seed=3) for ratio in (7, 70, 700)]
    monkeypatch.setattr("telltune.data.choice._BLOCK", 64)
    assert [size_general(ratio, 100, starts(lengths), seed=3) for ratio in (7, 70, 700)] == counts
    for wanted in (0, 1, 64, 65, 499, 500):
        assert drawn_tokens(starts(lengths), wanted, seed=3) == drawn[:wanted].sum()


def test_the_tokens_counted_are_those_of_the_first_epoch():
    lengths = np.random.default_rng(0).integers(20, 400, 5000)
    chosen = size_general(20, 1000, starts(lengths), seed=3)
    for order in ORDERS:
        slots = epoch_of(mix(10, chosen, 5000, order=order, seed=3))
        tokens = sum(lengths[index] for is_task, index in slots if not is_task)
        assert abs(tokens - 20_000) <= 200


def test_too_little_general_data_says_how_much_and_what_to_do():
    with pytest.raises(DataError) as caught:
        size_general(20, 300, starts([1000, 1000, 999]), seed=0)
    message = str(caught.value)
    for fact in ("6000 general tokens", "there are 2999", "3001 are missing", "9.99 or less"):
        assert fact in message
    assert "Lower `mixture.leverage_ratio`" in message
    assert size_general(9.99, 300, starts([1000, 1000, 999]), seed=0) == 3


@pytest.mark.parametrize("ratio", [-1, float("nan"), float("inf")])
def test_impossible_ratios_are_refused(ratio):
    with pytest.raises(RecipeError, match="leverage_ratio"):
        size_general(ratio, 100, starts([10]), seed=0)


def test_a_ratio_needs_task_tokens_and_ratio_zero_needs_no_general_data():
    with pytest.raises(DataError, match="no task tokens"):
        size_general(1, 0, starts([10]), seed=0)
    with pytest.raises(DataError, match="there are 0"):
        size_general(1, 10, starts([]), seed=0)
    assert size_general(0, 10, starts([]), seed=0) == 0
