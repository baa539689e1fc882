"""Which general examples a mixture takes, and how many make the wanted leverage ratio."""

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

__all__ = [
    "drawn_tokens",
    "general_choice",
    "general_index",
    "seeded_permutation",
    "size_general",
]

# What a random stream is for. `mixture` has the numbers from 3: changing one changes every run.
_CHOICE, _REFRESH, _REST = range(3)

_BLOCK = 2**14
"""Examples whose lengths are looked up at once."""


@lru_cache(maxsize=32)
def seeded_permutation(size: int, seed: int, stream: tuple[int, ...]) -> Permutation:
    """Keep the latest: a small one is a table, and sorting it for each batch would be slow."""
    return Permutation(size, seed, stream)


def general_choice(available: int, seed: int) -> Permutation:
    """Give the order in which a mixture draws on the general data.

    `size_general` and the mixture share it, so the tokens counted are the tokens trained on.

    Args:
        available: General examples there are, 1 or more.
        seed: The mixture's seed.

    Returns:
        Epoch 0 takes the numbers at positions 0, 1, 2 … of this permutation of `range(available)`.
    """
    return seeded_permutation(available, seed, (_CHOICE,))


def general_index(
    ranks: NDArray[np.int64], available: int, per_epoch: int, seed: int
) -> NDArray[np.int64]:
    """Find the example that each general slot takes.

    Args:
        ranks: Which general slot, counted over all epochs, (n,).
        available: General examples there are.
        per_epoch: General slots in an epoch.
        seed: The mixture's seed.

    Returns:
        Numbers of examples, (n,).
    """
    if not available or not ranks.size:
        return np.empty_like(ranks)
    laps = ranks // available
    index = np.empty_like(ranks)
    # An epoch is no longer than a lap over the general data, so it touches two at most.
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
    """Say where a lap's examples stood in the lap before.

    Where an epoch runs over the seam, its part in the new lap (`head` examples) must not repeat
    its part in the old one (the last `tail`). So the head is drawn from the rest, and only then
    are the tail and what is left of the rest shuffled together.
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
    """Choose how many general examples make the wanted leverage ratio.

    Leverage ratio = general tokens / distinct task tokens. The count is the one whose tokens come
    nearest to the target, taken in the order in which a `Mixture` of this seed takes them in epoch
    0; of two equally near, the smaller. It is 0 where even one example would be further off. Time
    grows with the count, and memory with neither it nor the examples that there are.

    Args:
        leverage_ratio: Zero or more.
        task_tokens: Tokens of the distinct task examples.
        offsets: Where each general example's tokens start, and where the last one's end, shape
            (available + 1,); may be mapped from disk.
        seed: The mixture's seed.

    Returns:
        How many general examples an epoch takes.

    Raises:
        RecipeError: The ratio is negative or not finite.
        DataError: There are no task tokens, or too few general ones.
    """
    if not (math.isfinite(leverage_ratio) and leverage_ratio >= 0):
        raise RecipeError(f"`mixture.leverage_ratio` must be 0 or more, not {leverage_ratio}.")
    if task_tokens < 1:
        raise DataError("There are no task tokens, so a leverage ratio has nothing to multiply.")
    target = leverage_ratio * task_tokens
    total = int(offsets[-1])
    if total < target:
        # Rounded down, so that the ratio named here works when it is put into the recipe.
        largest = math.floor(total / task_tokens * 100) / 100
        raise DataError(
            f"A leverage ratio of {leverage_ratio:g} asks for {math.ceil(target)} general tokens "
            f"({leverage_ratio:g} x {task_tokens} task tokens), and there are {total}: "
            f"{math.ceil(target) - total} are short. Lower `mixture.leverage_ratio` to "
            f"{largest:.2f} at most, or add general data."
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
    """Tokens of the first `count` general examples in the order of `general_choice`.

    Args:
        offsets: As for `size_general`.
        count: From 0 to as many as there are.
        seed: The mixture's seed.
    """
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
