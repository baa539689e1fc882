"""Selection of a mixture's general examples, and their number for a leverage ratio."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from telltune.data.permutation import Permutation
from telltune.errors import DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# Numbers of random streams. `mixture` uses those from 3 on. A changed number changes every run.
_CHOICE, _REFRESH, _REST = range(3)

_BLOCK = 2**14
"""Number of examples whose lengths are read at once."""


@lru_cache(maxsize=32)
def seeded_permutation(size: int, seed: int, stream: tuple[int, ...]) -> Permutation:
    """Return a cached permutation. A small one is a table, which is slow to build per batch."""
    return Permutation(size, seed, stream)


def general_choice(available: int, seed: int) -> Permutation:
    """Return the order in which a mixture draws general examples.

    `size_general` and the mixture share it, so the counted tokens are the tokens trained on.

    Returns:
        Permutation of `range(available)`. Epoch 0 takes its first elements in order.
    """
    return seeded_permutation(available, seed, (_CHOICE,))


def general_index(
    ranks: NDArray[np.int64], available: int, per_epoch: int, seed: int
) -> NDArray[np.int64]:
    """Return the index of the general example in each general slot.

    Args:
        ranks: General slots, counted over all epochs, shape (n,).
        available: Number of available general examples.
        per_epoch: Number of general slots per epoch.
        seed: The mixture's seed.

    Returns:
        Indices of examples, shape (n,).
    """
    if not available or not ranks.size:
        return np.empty_like(ranks)
    laps = ranks // available
    index = np.empty_like(ranks)
    # An epoch is not longer than a lap over the general data, so it overlaps at most two laps.
    for lap in range(int(laps.min()), int(laps.max()) + 1):
        inside = laps == lap
        positions = ranks[inside] - lap * available
        for later in range(lap, 0, -1):
            positions = _previous_lap(positions, later, available, per_epoch, seed)
        index[inside] = general_choice(available, seed)[positions]
    return index


def _previous_lap(
    positions: NDArray[np.int64], lap: int, available: int, per_epoch: int, seed: int
) -> NDArray[np.int64]:
    """Map positions in a lap to positions in the previous lap.

    If an epoch spans two laps, its part in the new lap (the first `head` examples) must not repeat
    its part in the old lap (the last `tail` examples). The head is therefore drawn from the rest.
    After that, the tail and the remaining examples are shuffled together.
    """
    tail = lap * available % per_epoch
    head = per_epoch - tail if tail else 0
    rest = seeded_permutation(available - tail, seed, (_REFRESH, lap))
    after = seeded_permutation(available - head, seed, (_REST, lap))
    old = positions.copy()
    behind = positions >= head
    old[behind] = after[positions[behind] - head] + head
    from_rest = old < available - tail
    old[from_rest] = rest[old[from_rest]]
    return old


def size_general(
    leverage_ratio: float, task_tokens: int, offsets: NDArray[np.int64], seed: int
) -> int:
    """Return the number of general examples per epoch for a leverage ratio.

    Leverage ratio = general tokens / distinct task tokens. Examples are counted in the order in
    which a `Mixture` with this seed takes them in epoch 0. The result is the count whose tokens
    are closest to the target, the smaller one in a tie; it can be 0. Time is linear in the count.
    Memory depends neither on the count nor on the number of available examples.

    Args:
        leverage_ratio: Zero or more.
        task_tokens: Number of tokens of the distinct task examples.
        offsets: Start of each general example's tokens, and the end of the last one's, shape
            (available + 1,). May be mapped from disk.
        seed: The mixture's seed.

    Raises:
        RecipeError: The ratio is negative or not finite.
        DataError: There are no task tokens, or too few general tokens.
    """
    if not (math.isfinite(leverage_ratio) and leverage_ratio >= 0):
        raise RecipeError(f"`mixture.leverage_ratio` must be 0 or more, not {leverage_ratio}.")
    if task_tokens < 1:
        raise DataError("There are no task tokens, so the leverage ratio is undefined.")
    target = leverage_ratio * task_tokens
    total = int(offsets[-1])
    if total < target:
        # Rounded down, so that the suggested ratio works in the recipe.
        largest = math.floor(total / task_tokens * 100) / 100
        raise DataError(
            f"A leverage ratio of {leverage_ratio:g} requires {math.ceil(target)} general tokens "
            f"({leverage_ratio:g} x {task_tokens} task tokens), but there are {total}: "
            f"{math.ceil(target) - total} are missing. Lower `mixture.leverage_ratio` to "
            f"{largest:.2f} or less, or add general data."
        )
    if target == 0:
        return 0
    count = below = 0
    for lengths in _drawn_lengths(offsets, len(offsets) - 1, seed):
        tokens = below + np.cumsum(lengths)
        place = int(np.searchsorted(tokens, target))
        if place < len(tokens):
            before = int(tokens[place - 1]) if place else below
            nearer = target - before <= tokens[place] - target
            return count + place if nearer else count + place + 1
        count, below = count + len(lengths), int(tokens[-1])
    return count


def drawn_tokens(offsets: NDArray[np.int64], count: int, seed: int) -> int:
    """Return the number of tokens of the first `count` examples in `general_choice` order."""
    if count == len(offsets) - 1:
        return int(offsets[-1])
    return sum(int(lengths.sum()) for lengths in _drawn_lengths(offsets, count, seed))


def _drawn_lengths(
    offsets: NDArray[np.int64], count: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    for start in range(0, count, _BLOCK):
        places = np.arange(start, min(start + _BLOCK, count))
        chosen = general_choice(len(offsets) - 1, seed)[places]
        yield offsets[chosen + 1] - offsets[chosen]
