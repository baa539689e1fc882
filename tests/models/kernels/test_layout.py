"""Each example of a packed row attends as it would alone, however the row is cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from telltune.models.kernels import layout as blocks
from telltune.models.kernels import layout as module
from telltune.models.kernels.layout import Layout, Segment, visible


def seen_by_tiles(layout: Layout, window: int | None) -> torch.Tensor:
    """Return which tokens of the row each token attends to."""
    tiles = layout.tiles(window)
    starts = [sum(t.length for t in tiles[:i]) for i in range(len(tiles) + 1)]
    seen = torch.zeros(starts[-1], starts[-1], dtype=torch.bool)
    for number, (length, before, mask) in enumerate(tiles):
        columns = [i for t in (*before, number) for i in range(starts[t], starts[t + 1])]
        if mask is None:
            assert not before
            mask = visible(length, 0)
        seen[starts[number] : starts[number + 1], columns] = mask
    return seen


def seen_by_blocks(layout: Layout, window: int | None) -> torch.Tensor:
    total = sum(segment.length for segment in layout.segments)
    seen = torch.zeros(total, total, dtype=torch.bool)
    end = 0
    for start, stop, spans, hidden in layout.blocks(window) or []:
        # Every token is a query once, in order.
        assert start == end
        end = stop
        columns = [i for span in spans for i in range(*span)]
        seen[start:stop, columns] = hidden == 0
        assert hidden[hidden != 0].eq(-torch.inf).all()
    assert end == total
    return seen


@st.composite
def segments(draw: st.DrawFn) -> list[Segment]:
    made: list[Segment] = []
    for number in range(draw(st.integers(1, 7))):
        prefix = draw(st.integers(-1, number - 1))
        made.append(Segment(draw(st.integers(1, 9)), prefix))
    return made


@given(
    segments(),
    st.sampled_from([1, 6, 12, 1000]),
    st.sampled_from([1, 4, 32]),
    st.sampled_from([None, 1, 4]),
)
def test_a_token_sees_its_segment_and_what_that_continues(
    drawn: list[Segment], tile: int, chunk: int, window: int | None
) -> None:
    layout = Layout(drawn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILE", tile)
        patch.setattr(blocks, "CHUNK", chunk)
        # Small rows are cut too.
        patch.setattr(blocks, "_CALL", 20)
        seen = seen_by_tiles(layout, window)
        assert torch.equal(seen_by_blocks(layout, window), seen)
    owner = [i for i, segment in enumerate(drawn) for _ in range(segment.length)]
    place = [p for segment in drawn for p in range(segment.length)]
    chains: list[list[int]] = []
    for _, prefix in drawn:
        chains.append([*chains[prefix], prefix] if prefix >= 0 else [])
    before = [sum(drawn[i].length for i in chain) for chain in chains]
    for t in range(len(owner)):
        for k in range(len(owner)):
            mine, other = owner[t], owner[k]
            if other == mine:
                distance = place[t] - place[k]
            elif other in chains[mine]:
                distance = before[mine] + place[t] - before[other] - place[k]
            else:
                distance = -1
            assert bool(seen[t, k]) == (0 <= distance < (window or 10**6))


def test_short_segments_share_a_tile_and_plain_ones_need_no_mask() -> None:
    layout = Layout([Segment(40), Segment(50), Segment(30), Segment(300)])
    assert [tile.length for tile in layout.tiles(None)] == [120, 300]
    assert layout.tiles(None)[1].mask is None


def test_masks_and_blocks_are_made_once() -> None:
    layout = Layout([Segment(3), Segment(2, 0)])
    like = torch.zeros(1)
    assert layout.masks(None, like) is layout.masks(None, like)
    # A window wider than the row has no effect.
    assert layout.blocks(None) is layout.blocks(100)


def test_blocks_have_few_sizes_and_leave_out_what_nobody_sees() -> None:
    layout = Layout([Segment(25), *[Segment(41, 0)] * 15, Segment(160), Segment(32)])
    found = layout.blocks(None)
    assert found is not None
    assert all(
        size % blocks.CHUNK == 0
        for block in found
        for size in (*block.hidden.shape, *(at for span in block.spans for at in span))
    )
    pairs = sum(block.hidden.numel() for block in found)
    assert pairs < 832**2 / 4
    # Queries of the last segments do not read the first ones.
    assert found[-1].spans[0][0] >= 25 + 14 * 41


def test_a_row_whose_weights_would_take_much_memory_has_no_blocks() -> None:
    assert Layout([Segment(1024)]).blocks(None) is not None
    assert Layout([Segment(1056)]).blocks(None) is None
    assert Layout([Segment(500)] * 9).blocks(None) is not None
