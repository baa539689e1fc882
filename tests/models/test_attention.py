"""A packed row attends as its examples would alone, however it is cut into tiles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from telltune.models import attention as module
from telltune.models.attention import Layout, Segment, asks_attention, packed_attention, visible


def seen_of(layout: Layout, window: int | None) -> torch.Tensor:
    """Which tokens of the row each token attends to, put together from the tiles."""
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


@st.composite
def segments(draw: st.DrawFn) -> list[Segment]:
    made: list[Segment] = []
    for number in range(draw(st.integers(1, 7))):
        prefix = draw(st.integers(-1, number - 1))
        made.append(Segment(draw(st.integers(1, 9)), prefix))
    return made


@given(segments(), st.sampled_from([1, 6, 12, 1000]), st.sampled_from([None, 1, 4]))
def test_a_token_sees_its_segment_and_what_that_continues(
    drawn: list[Segment], tile: int, window: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILE", tile)
        seen = seen_of(Layout(drawn), window)
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


def test_masks_are_made_once(tiny_base: Any) -> None:
    layout = Layout([Segment(3), Segment(2, 0)])
    like = torch.zeros(1)
    assert layout.masks(None, like) is layout.masks(None, like)


def test_a_model_says_whether_it_uses_the_attention(tiny_base: Any) -> None:
    assert not asks_attention(tiny_base.model)
    with packed_attention(tiny_base.model):
        assert asks_attention(tiny_base.model)
