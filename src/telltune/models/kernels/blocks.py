"""Division of a packed row into blocks of few sizes, for attention as matrix products.

Queries and keys are processed in chunks of a fixed number of tokens, independent of the bounds of
examples, so that the products of a run have few shapes. Otherwise a library such as oneDNN, which
compiles a product for each shape and keeps it, would keep compiling. A block consists of adjacent
chunks of queries. It reads the chunks of keys that any of its queries sees, and a mask hides the
rest. The cuts minimize the number of blocks and of masked scores.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

__all__ = ["CHUNK", "Block", "blocks_of"]

# Tokens of a chunk. With 64, the blocks of 16 steps of the demo's mixture cost 20% more.
CHUNK = 32
# Maximum number of query chunks in a block.
_LONGEST = 8
# Fixed cost of a block, in units of query-key pairs; estimated from the times of a block's
# operations on Zen 5 in bf16.
_CALL = 10_000


class Block(NamedTuple):
    """Consecutive queries of a row, and the keys that they read."""

    start: int
    stop: int
    spans: tuple[tuple[int, int], ...]
    """Start and stop of each span of keys."""
    hidden: Tensor
    """Additive mask (queries, keys): 0 where a query sees a key, -inf elsewhere."""


def blocks_of(
    bounds: Sequence[tuple[int, int]],
    ancestors: Sequence[tuple[int, ...]],
    sees: Callable[[Tensor, Tensor], Tensor],
    most_keys: int | None,
) -> list[Block] | None:
    """Return the blocks of a row.

    Args:
        bounds: Start and stop of each segment; the segments partition the row.
        ancestors: Indices of all segments that each segment continues.
        sees: Function from row positions to visible keys, bool (queries, keys).
        most_keys: Maximum number of keys that a block may read; None for no limit.

    Returns:
        Blocks in order; None if a block would read more than `most_keys` keys.
    """
    total = bounds[-1][1]
    seen = _seen_chunks(bounds, ancestors)
    cuts = _cuts(seen)
    reads = [_union(seen[a:b]) for a, b in pairwise(cuts)]
    widest = max(bits.bit_count() for bits in reads) * CHUNK
    if most_keys is not None and widest > most_keys:
        return None
    blocks = []
    for (a, b), bits in zip(pairwise(cuts), reads, strict=True):
        start, stop = a * CHUNK, min(b * CHUNK, total)
        spans = _spans(bits, total)
        seen_keys = sees(torch.arange(start, stop), torch.cat([torch.arange(*s) for s in spans]))
        hidden = torch.zeros(seen_keys.shape).masked_fill_(~seen_keys, float("-inf"))
        blocks.append(Block(start, stop, spans, hidden))
    return blocks


def _seen_chunks(
    bounds: Sequence[tuple[int, int]], ancestors: Sequence[tuple[int, ...]]
) -> list[int]:
    """Return for each chunk of queries the chunks of keys that it reads, as bits."""
    seen = [0] * -(-bounds[-1][1] // CHUNK)
    chunks = [(start // CHUNK, (stop - 1) // CHUNK) for start, stop in bounds]
    for (own, last), chain in zip(chunks, ancestors, strict=True):
        inherited = _union([_bits(*chunks[i]) for i in chain])
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
    """Return the cheapest cuts, in chunks, by dynamic programming."""
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
    """Return runs of chunks as starts and stops in tokens."""
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
