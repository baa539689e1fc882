"""Division of a packed row into tiles or blocks whose attention is computed at once.

A row of tokens consists of segments. A segment attends causally to itself, and to all segments that
it continues: an example to its shared prefix, a label to its prompt. The result equals that of
separate computation, because under causal attention the states of a prefix do not depend on later
tokens.

Tiles follow the segments. Blocks, for attention as matrix products, consist of chunks of a fixed
number of tokens, so that the products of a run have few shapes. Otherwise a library such as oneDNN,
which compiles a product for each shape and keeps it, would keep compiling. A block consists of
adjacent chunks of queries. It reads the chunks of keys that any of its queries sees, and a mask
hides the rest. The cuts minimize the number of blocks and of masked scores.
"""

from __future__ import annotations

from functools import cached_property, partial, reduce
from itertools import accumulate, pairwise
from operator import or_
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

# Maximum number of tokens in a tile; a longer segment gets its own tile.
TILE = 192
# On a GPU the cost of calls exceeds that of masked scores; the memory of masks sets the bound.
GPU_TILE = 2048
# Maximum number of keys per query for attention as products, which keeps the attention weights.
MOST_KEYS = 1024


class Segment(NamedTuple):
    """Consecutive tokens of a row.

    Attributes:
        length: Number of tokens.
        prefix: Index of the segment that this one continues; -1 for none.
    """

    length: int
    prefix: int = -1


class Tile(NamedTuple):
    """Adjacent segments whose attention is computed at once.

    Attributes:
        length: Number of tokens in all segments.
        before: Indices of the tiles with the segments that these continue.
        mask: Keys that each token sees, bool (length, keys): those of the tiles in `before`, then
            those of this tile. None for plain causal attention.
    """

    length: int
    before: tuple[int, ...]
    mask: Tensor | None


class Layout:
    """Segments of a row, and the tiles whose attention is computed at once.

    One call per short segment would cost more in overhead than in computation. One call for the
    whole row would mostly compute scores that the mask hides.

    Args:
        segments: Partition of the row; a segment follows the one that it continues.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = tuple(segments)
        self._tiles: dict[tuple[int | None, int], list[Tile]] = {}
        self._masks: dict[tuple[object, ...], list[Tensor | None]] = {}
        self._blocks: dict[tuple[int | None, str, bool], list[Block] | None] = {}

    @cached_property
    def ancestors(self) -> list[tuple[int, ...]]:
        """Indices of all segments that each segment continues, in ascending order."""
        found: list[tuple[int, ...]] = []
        for _, prefix in self.segments:
            found.append((*found[prefix], prefix) if prefix >= 0 else ())
        return found

    @cached_property
    def _bounds(self) -> list[tuple[int, int]]:
        """Start and stop of each segment in the row."""
        stops = list(accumulate(segment.length for segment in self.segments))
        return list(pairwise([0, *stops]))

    @cached_property
    def _tokens(self) -> tuple[Tensor, Tensor]:
        """Segment of each token, and its position counted from the first segment continued."""
        sizes = torch.tensor([segment.length for segment in self.segments])
        owner = torch.arange(len(sizes)).repeat_interleave(sizes)
        starts = torch.tensor([start for start, _ in self._bounds])
        before = torch.tensor([int(sizes[list(chain)].sum()) for chain in self.ancestors])
        return owner, torch.arange(len(owner)) + (before - starts)[owner]

    @cached_property
    def _continues(self) -> Tensor:
        """Whether a segment equals or continues another, bool (segments, segments)."""
        related = torch.eye(len(self.segments), dtype=torch.bool)
        for number, chain in enumerate(self.ancestors):
            related[number, list(chain)] = True
        return related

    def _sees(self, queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
        """Return which keys each query sees, bool (queries, keys), given their row positions."""
        owner, place = self._tokens
        # The segments that a segment continues precede it in the row.
        seen = self._continues[owner[queries]][:, owner[keys]] & (keys <= queries[:, None])
        return seen if window is None else seen & (place[queries][:, None] - place[keys] < window)

    def tiles(self, window: int | None, *, gpu: bool = False) -> list[Tile]:
        """Return the tiles of the row.

        Args:
            window: Size of the sliding window in tokens; None for full attention.
            gpu: Whether attention is computed on a GPU.
        """
        key = (self._hides(window), GPU_TILE if gpu else TILE)
        if key not in self._tiles:
            self._tiles[key] = self._tiled(*key)
        return self._tiles[key]

    def masks(self, window: int | None, like: Tensor) -> list[Tensor | None]:
        """Return the additive mask of each tile, with the dtype and device of `like`."""
        key = (window, like.dtype, like.device)
        if key not in self._masks:
            self._masks[key] = [
                None
                if mask is None
                else torch.zeros(mask.shape).masked_fill_(~mask, float("-inf")).to(like)
                for _, _, mask in self.tiles(window, gpu=like.is_cuda)
            ]
        return self._masks[key]

    def blocks(
        self,
        window: int | None,
        device: torch.device | str = "cpu",
        *,
        limited: bool = True,
    ) -> list[Block] | None:
        """Return the blocks for attention as products.

        Args:
            window: Size of the sliding window in tokens; None for full attention.
            device: Device of the masks.
            limited: Whether to return None if the blocks would take much memory.
        """
        key = (self._hides(window), str(device), limited)
        if key not in self._blocks:
            sees = partial(self._sees, window=key[0])
            most = MOST_KEYS if limited else None
            found = blocks_of(self._bounds, self.ancestors, sees, most)
            self._blocks[key] = found and [b._replace(hidden=b.hidden.to(device)) for b in found]
        return self._blocks[key]

    def _hides(self, window: int | None) -> int | None:
        # A window that hides no key is None, so that all layers share the cached tiles.
        return window if window is not None and window <= int(self._tokens[1].max()) else None

    def _tiled(self, window: int | None, longest: int) -> list[Tile]:
        groups: list[list[int]] = []
        size = 0
        parents = {prefix for _, prefix in self.segments}
        for number, (length, _) in enumerate(self.segments):
            # A segment that others continue gets its own tile, because they may see all of it.
            alone = number in parents or bool(groups and groups[-1][-1] in parents)
            if not groups or alone or size + length > longest:
                groups.append([])
                size = 0
            groups[-1].append(number)
            size += length
        tile_of = {number: i for i, group in enumerate(groups) for number in group}
        return [self._tile(group, tile_of, window) for group in groups]

    def _tile(self, group: list[int], tile_of: dict[int, int], window: int | None) -> Tile:
        length = sum(self.segments[i].length for i in group)
        before = sorted({i for number in group for i in self.ancestors[number]})
        if len(group) == 1 and not before and window is None:
            return Tile(length, (), None)
        queries, keys = (
            torch.cat([torch.arange(*self._bounds[i]) for i in numbers])
            for numbers in (group, [*before, *group])
        )
        return Tile(length, tuple(tile_of[i] for i in before), self._sees(queries, keys, window))


def visible(length: int, prefix: int, window: int | None = None) -> Tensor:
    """Return which keys the last `length` tokens see, bool (length, prefix + length)."""
    behind = torch.arange(prefix, prefix + length)[:, None] - torch.arange(prefix + length)
    return (behind >= 0) & (behind < window) if window is not None else behind >= 0


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
    reads = [reduce(or_, seen[a:b]) for a, b in pairwise(cuts)]
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
        inherited = reduce(or_, (_bits(*chunks[i]) for i in chain), 0)
        for chunk in range(own, last + 1):
            seen[chunk] |= inherited | _bits(own, chunk)
    return seen


def _bits(first: int, last: int) -> int:
    return (1 << (last + 1)) - (1 << first)


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
