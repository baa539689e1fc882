"""The cache of growing sequences: what a window hides is not read."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from telltune.inference.key_values import AttentionKind, KeyValues

WIDTH, HEADS, PREFIX, LENGTHS = 4, 2, 12, (3, 5)


def drawn(tokens: int, heads: int) -> torch.Tensor:
    return torch.randn(1, heads, tokens, WIDTH)


def own_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, kind: AttentionKind
) -> torch.Tensor:
    """Attention of the last token, (1, heads, 1, width), written out."""
    near = slice(-kind.window if kind.window else None, None)
    keys, values = (t[:, :, near].repeat_interleave(2, dim=1) for t in (keys, values))
    scores = query @ keys.transpose(2, 3) * kind.scaling
    if kind.softcap is not None:
        scores = kind.softcap * torch.tanh(scores / kind.softcap)
    if kind.sinks is not None:
        scores = torch.cat([scores, kind.sinks.view(1, -1, 1, 1)], -1)
    return torch.softmax(scores, -1)[..., : keys.shape[2]] @ values


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("sunk", [False, True])
@pytest.mark.parametrize("window", [None, 2, 4, 7, 16])
@pytest.mark.parametrize("rows", [1, 2])
def test_each_token_sees_its_window_and_no_more(
    window: int | None, softcap: float | None, sunk: bool, rows: int
) -> None:
    torch.manual_seed(0)
    kind = AttentionKind(0.9, window, softcap, torch.linspace(-1, 2, 2 * HEADS) if sunk else None)
    before = (drawn(PREFIX, HEADS), drawn(PREFIX, HEADS))
    hidden = max(PREFIX + 1 - window, 0) if window else 0
    # What no token sees may be anything.
    stored = tuple(t[0].clone().index_fill(1, torch.arange(hidden), torch.nan) for t in before)
    store = KeyValues(rows, 10, {0: stored})  # type: ignore[dict-item]
    lengths = LENGTHS[:rows]
    total = sum(lengths)
    new = (drawn(total, 2 * HEADS), drawn(total, HEADS), drawn(total, HEADS))
    store.start(lengths)
    found = [*store.attend(0, *new, kind).transpose(1, 2).split(lengths, 2)]
    store.done()
    bounds = list(pairwise([0, *torch.tensor(lengths).cumsum(0).tolist()]))
    each = [[t[:, :, a:b] for t in new] for a, b in bounds]
    for tokens in (1, 2):
        grown = [[drawn(tokens, h) for h in (2 * HEADS, HEADS, HEADS)] for _ in lengths]
        store.grow(tokens)
        at_once = [torch.cat(parts, 2) for parts in zip(*grown, strict=True)]
        more = store.attend(0, *at_once, kind).transpose(1, 2).split(tokens, 2)  # type: ignore[arg-type]
        store.done()
        found = [torch.cat(parts, 2) for parts in zip(found, more, strict=True)]
        each = [
            [torch.cat(parts, 2) for parts in zip(old, own, strict=True)]
            for old, own in zip(each, grown, strict=True)
        ]
    for attended, (query, key, value) in zip(found, each, strict=True):
        keys, values = (torch.cat(parts, 2) for parts in zip(before, (key, value), strict=True))
        for place in range(query.shape[2]):
            stop = PREFIX + place + 1
            seen = (query[:, :, place : place + 1], keys[:, :, :stop], values[:, :, :stop])
            torch.testing.assert_close(
                attended[:, :, place : place + 1], own_attention(*seen, kind)
            )


def test_a_window_that_has_left_the_prefix_reads_none_of_it() -> None:
    torch.manual_seed(0)
    kind = AttentionKind(1.0, window=3)
    prefix = torch.randn(HEADS, PREFIX, WIDTH)
    store = KeyValues(2, 10, {0: (prefix, prefix)})
    store.start([4, 4])
    store.attend(0, drawn(8, HEADS), drawn(8, HEADS), drawn(8, HEADS), kind)
    store.done()
    prefix.fill_(torch.nan)
    store.grow()
    found = store.attend(0, drawn(2, HEADS), drawn(2, HEADS), drawn(2, HEADS), kind)
    assert found.isfinite().all()
