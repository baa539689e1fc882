"""A packed row cut into blocks of few sizes, for attention as matrix products.

Queries and keys are taken in chunks of a fixed number of tokens, wherever examples begin and end,
so that the products of a run have a few shapes. A library that compiles a product for each shape,
as oneDNN does, would otherwise compile on and on and keep all of it. Neighbouring chunks of
queries make a block; it reads the chunks of keys that any of its queries sees, and a mask hides
the rest. Where to cut is chosen so that little is computed in vain in few blocks.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["CHUNK", "Block", "blocks_of"]

# Tokens of a chunk; with 64 the blocks of 16 steps of the demo's mixture cost a fifth more.
CHUNK = 32
# Chunks of queries in a block, at most.
_LONGEST = 8
# What a block costs beside its pairs, in pairs of a query and a key: estimated from the times of
# a block's operations on Zen 5, bf16.
_CALL = 10_000


class Block(NamedTuple):
    """Consecutive queries of a row, and the keys that they read."""

    start: int
    stop: int
    spans: tuple[tuple[int, int], ...]
    """Of keys: start and stop of each."""
    hidden: Tensor
    """(queries, keys): 0 where a query sees a key and -inf where it does not."""


def blocks_of(
    lengths: Sequence[int],
    ancestors: Sequence[tuple[int, ...]],
    window: int | None,
    most_keys: int,
) -> list[Block] | None:
    """The blocks of a row.

    Args:
        lengths: Of its segments.
        ancestors: Of each segment the numbers of all that it continues.
        window: How far a token sees, or None for all the way.
        most_keys: That a block may read.

    Returns:
        The blocks in order; None where one of them would read more keys.
    """
    sizes = torch.tensor(lengths)
    ends = sizes.cumsum(0)
    starts = (ends - sizes).tolist()
    total = int(ends[-1])
    seen = _seen_chunks(starts, ends.tolist(), ancestors)
    cuts = _cuts(seen)
    reads = [_union(seen[a:b]) for a, b in pairwise(cuts)]
    if max(bits.bit_count() for bits in reads) * CHUNK > most_keys:
        return None
    owner = torch.arange(len(lengths)).repeat_interleave(sizes)
    before = torch.tensor([sum(lengths[i] for i in chain) for chain in ancestors])
    at = torch.arange(total)
    # Where a token stands in its own example.
    place = at - torch.tensor(starts)[owner] + before[owner]
    chains = torch.eye(len(lengths), dtype=torch.bool)
    for number, chain in enumerate(ancestors):
        chains[number, list(chain)] = True
    blocks = []
    for (a, b), bits in zip(pairwise(cuts), reads, strict=True):
        start, stop = a * CHUNK, min(b * CHUNK, total)
        spans = _spans(bits, total)
        keys = torch.cat([at[s:e] for s, e in spans])
        sees = chains[owner[start:stop]][:, owner[keys]] & (keys <= at[start:stop, None])
        if window is not None:
            sees &= place[start:stop, None] - place[keys] < window
        hidden = torch.zeros(sees.shape).masked_fill_(~sees, float("-inf"))
        blocks.append(Block(start, stop, spans, hidden))
    return blocks


def _seen_chunks(
    starts: Sequence[int], ends: Sequence[int], ancestors: Sequence[tuple[int, ...]]
) -> list[int]:
    """Of each chunk of queries the chunks of keys that it needs, as bits."""
    seen = [0] * -(-ends[-1] // CHUNK)
    for start, end, chain in zip(starts, ends, ancestors, strict=True):
        own, last = start // CHUNK, (end - 1) // CHUNK
        inherited = 0
        for i in chain:
            inherited |= _bits(starts[i] // CHUNK, (ends[i] - 1) // CHUNK)
        for chunk in range(own, last + 1):
            seen[chunk] |= inherited | _bits(own, chunk)
    return seen


def _bits(first: int, last: int) -> int:
    return (1 << (last + 1)) - (1 << first)


def _union(bits: Sequence[int]) -> int:
    every = 0
    for some in bits:
        every |= some
    return every


def _cuts(seen: Sequence[int]) -> list[int]:
    """Where to cut, in chunks: the cheapest way by dynamic programming."""
    cost, came_from = [0.0], [0]
    for stop in range(1, len(seen) + 1):
        best, chosen, reads = float("inf"), stop - 1, 0
        for start in range(stop - 1, max(stop - _LONGEST, 0) - 1, -1):
            reads |= seen[start]
            pairs = (stop - start) * reads.bit_count() * CHUNK**2
            if cost[start] + _CALL + pairs < best:
                best, chosen = cost[start] + _CALL + pairs, start
        cost.append(best)
        came_from.append(chosen)
    cuts = [len(seen)]
    while cuts[-1]:
        cuts.append(came_from[cuts[-1]])
    return cuts[::-1]


def _spans(bits: int, total: int) -> tuple[tuple[int, int], ...]:
    """Runs of chunks, as starts and stops in tokens."""
    runs: list[tuple[int, int]] = []
    chunk = 0
    while bits >> chunk:
        if bits >> chunk & 1:
            start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, total)
            if runs and runs[-1][1] == start:
                start = runs.pop()[0]
            runs.append((start, stop))
        chunk += 1
    return tuple(runs)
