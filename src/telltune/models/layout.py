"""How a packed row is cut into pieces whose attention is computed at once.

A row of tokens is split into segments. A segment attends to itself, causally, and to all of the
segments that it continues: an example to the prefix that it shares with others, a label to the
prompt that it answers. That is what computing each example alone would give, since under causal
attention the states of a prefix do not depend on what follows.
"""

from __future__ import annotations

from functools import cached_property, partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch

from telltune.models.blocks import Block, blocks_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["Layout", "Segment", "visible"]

# Tokens of a tile, at most; a longer segment has one of its own.
TILE = 192
# On a GPU a call takes longer than what is computed in vain; the mask's memory is the bound there.
GPU_TILE = 2048
# Keys that a query reads, at most, where attention is computed as products, whose weights are kept.
MOST_KEYS = 1024


class Segment(NamedTuple):
    """Consecutive tokens of a row.

    Attributes:
        length: How many.
        prefix: The number of the segment that these continue, -1 for none.
    """

    length: int
    prefix: int = -1


class Tile(NamedTuple):
    """Neighbouring segments whose attention is computed at once.

    Attributes:
        length: Tokens of all of them.
        before: The numbers of the tiles that hold what they continue.
        mask: Which keys each token sees, bool (length, keys): those of the tiles before, and its
            own. None where plain causal attention says it.
    """

    length: int
    before: tuple[int, ...]
    mask: Tensor | None


class Layout:
    """The segments of a row, and the tiles that attention computes at once.

    A call for each short segment would cost more in calling than in computing, and one for the
    whole row compute mostly what the mask then hides.

    Args:
        segments: They partition the row; a segment stands behind the one it continues.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = tuple(segments)
        self._tiles: dict[tuple[int | None, int], list[Tile]] = {}
        self._masks: dict[tuple[object, ...], list[Tensor | None]] = {}
        self._blocks: dict[int | None, list[Block] | None] = {}

    @cached_property
    def ancestors(self) -> list[tuple[int, ...]]:
        """Of each segment the numbers of all that it continues, the first of them first."""
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
        """Of each token its segment, and where it stands behind all that this continues."""
        sizes = torch.tensor([segment.length for segment in self.segments])
        owner = torch.arange(len(sizes)).repeat_interleave(sizes)
        starts = torch.tensor([start for start, _ in self._bounds])
        before = torch.tensor([int(sizes[list(chain)].sum()) for chain in self.ancestors])
        return owner, torch.arange(len(owner)) + (before - starts)[owner]

    @cached_property
    def _continues(self) -> Tensor:
        """Whether a segment is another or continues it, bool (segments, segments)."""
        related = torch.eye(len(self.segments), dtype=torch.bool)
        for number, chain in enumerate(self.ancestors):
            related[number, list(chain)] = True
        return related

    def _sees(self, queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
        """Which keys each query sees, bool (queries, keys), by their places in the row."""
        owner, place = self._tokens
        # What a segment continues stands before it in the row.
        seen = self._continues[owner[queries]][:, owner[keys]] & (keys <= queries[:, None])
        return seen if window is None else seen & (place[queries][:, None] - place[keys] < window)

    def tiles(self, window: int | None, *, gpu: bool = False) -> list[Tile]:
        """How attention is computed.

        Args:
            window: How far a token sees, or None for all the way.
            gpu: Whether a GPU computes it.
        """
        key = (self._hides(window), GPU_TILE if gpu else TILE)
        if key not in self._tiles:
            self._tiles[key] = self._tiled(*key)
        return self._tiles[key]

    def masks(self, window: int | None, like: Tensor) -> list[Tensor | None]:
        """What is added to the attention of each tile, in the dtype and on the device of `like`."""
        key = (window, like.dtype, like.device)
        if key not in self._masks:
            self._masks[key] = [
                None
                if mask is None
                else torch.zeros(mask.shape).masked_fill_(~mask, float("-inf")).to(like)
                for _, _, mask in self.tiles(window, gpu=like.is_cuda)
            ]
        return self._masks[key]

    def blocks(self, window: int | None) -> list[Block] | None:
        """How attention is computed as products; None where its weights would take much memory."""
        window = self._hides(window)
        if window not in self._blocks:
            sees = partial(self._sees, window=window)
            self._blocks[window] = blocks_of(self._bounds, self.ancestors, sees, MOST_KEYS)
        return self._blocks[window]

    def _hides(self, window: int | None) -> int | None:
        # A window that hides nothing is none; every layer asks, so this is not counted anew.
        return window if window is not None and window <= int(self._tokens[1].max()) else None

    def _tiled(self, window: int | None, longest: int) -> list[Tile]:
        groups: list[list[int]] = []
        size = 0
        parents = {prefix for _, prefix in self.segments}
        for number, (length, _) in enumerate(self.segments):
            # What others continue has a tile of its own: all of it may be theirs to see.
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
    """Which keys each of the last `length` tokens sees, bool (length, prefix + length)."""
    behind = torch.arange(prefix, prefix + length)[:, None] - torch.arange(prefix + length)
    return (behind >= 0) & (behind < window) if window is not None else behind >= 0
