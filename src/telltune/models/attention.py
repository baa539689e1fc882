"""Attention confined to the examples of a packed row.

A row of tokens is split into segments. A segment attends to itself, causally, and to all of the
segments that it continues: an example to the prefix that it shares with others, a label to the
prompt that it answers. That is what computing each example alone would give, since under causal
attention the states of a prefix do not depend on what follows.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

from telltune.models.attention_products import attend_by_products, suits_products

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

__all__ = [
    "Layout",
    "NoLayoutError",
    "Segment",
    "agrees",
    "asks_attention",
    "attention",
    "packed_attention",
    "tried_once",
    "visible",
]

NAME = "telltune_packed"
# Tokens of a tile, at most; a longer segment has one of its own.
TILE = 192
# On a GPU a call takes longer than what is computed in vain; the mask's memory is the bound there.
GPU_TILE = 2048
_HALF = (torch.bfloat16, torch.float16)


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

    @cached_property
    def ancestors(self) -> list[tuple[int, ...]]:
        """Of each segment the numbers of all that it continues, the first of them first."""
        found: list[tuple[int, ...]] = []
        for _, prefix in self.segments:
            found.append((*found[prefix], prefix) if prefix >= 0 else ())
        return found

    @cached_property
    def _longest(self) -> int:
        """Tokens of the longest segment with all that it continues."""
        return max(
            length + sum(self.segments[i].length for i in before)
            for (length, _), before in zip(self.segments, self.ancestors, strict=True)
        )

    def tiles(self, window: int | None, *, gpu: bool = False) -> list[Tile]:
        """How attention is computed.

        Args:
            window: How far a token sees, or None for all the way.
            gpu: Whether a GPU computes it.
        """
        # A window that hides nothing is none; every layer asks, so this is not counted anew.
        window = window if window is not None and window < self._longest else None
        key = (window, GPU_TILE if gpu else TILE)
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
        lengths = [self.segments[i].length for i in group]
        before = sorted({i for number in group for i in self.ancestors[number]})
        keys = [(i, self.segments[i].length) for i in before] + list(
            zip(group, lengths, strict=True)
        )
        if len(keys) == 1 and window is None:
            return Tile(lengths[0], (), None)
        rows = []
        for number, length in zip(group, lengths, strict=True):
            chain = self.ancestors[number]
            prefix = sum(self.segments[i].length for i in chain)
            own = visible(length, prefix, window)
            row, at = [], 0
            for i, count in keys:
                if i in chain or i == number:
                    row.append(own[:, at : at + count])
                    at += count
                else:
                    row.append(torch.zeros(length, count, dtype=torch.bool))
            rows.append(torch.cat(row, dim=1))
        return Tile(sum(lengths), tuple(tile_of[i] for i in before), torch.cat(rows))


def visible(length: int, prefix: int, window: int | None = None) -> Tensor:
    """Which keys each of the last `length` tokens sees, bool (length, prefix + length)."""
    distance = torch.arange(prefix, prefix + length)[:, None] - torch.arange(prefix + length)
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)


class NoLayoutError(RuntimeError):
    """Our attention was asked, and nobody said what attends to what."""


@contextmanager
def attention(model: Any, name: str, function: Any) -> Iterator[None]:
    """Let a model attend as `function` does, while this lasts.

    Args:
        model: A model of transformers, or a PEFT model around one.
        name: Under which transformers keeps the function.
        function: With the interface of transformers' `AttentionInterface`. It gets no mask; that
            over all tokens of a row would be built in vain.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, lambda *_, **__: None)
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before


def asks_attention(model: Any) -> bool:
    """Whether the attention set by `attention` is what the model computes with.

    Some older architectures and those without attention do not look at the setting. Ours cannot go
    on without being told what to attend to.
    """
    try:
        model(input_ids=torch.zeros(1, 2, dtype=torch.int64, device=model.device), use_cache=False)
    except NoLayoutError:
        return True
    return False


def agrees(
    model: Any,
    context: AbstractContextManager[None],
    ours: Callable[[], Tensor],
    plain: Callable[[], Tensor],
) -> bool:
    """Whether a model computes the same with our attention as without; tried, not guessed.

    A model that does not use the attention, or refuses what is asked of it, does not. Half
    precision would round away what tells one kind of attention from another, so all of it is
    computed in fp32.

    Args:
        model: It computes without dropout here.
        context: From `attention` or `packed_attention`.
        ours: Computed within the context.
        plain: Computed outside of it; the same shape.
    """
    was_training = model.training
    model.train(False)
    try:
        with torch.no_grad(), _in_fp32(model):
            wanted = plain()
            with context:
                if not asks_attention(model):
                    return False
                found = ours()
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        logging.getLogger(__name__).info("This model is not packed: %s", error)
        return False
    finally:
        model.train(was_training)
    # The order of a sum is all that may differ.
    return bool(torch.allclose(found.float(), wanted.float(), rtol=1e-3, atol=1e-3))


def tried_once(trial: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Try once for each kind of model: its configuration decides, and not its weights."""
    known: dict[str, bool] = {}

    @wraps(trial)
    def verdict(model: Any) -> bool:
        key = f"{type(model.config).__qualname__} {model.config.to_json_string()}"
        if key not in known:
            known[key] = trial(model)
        return known[key]

    return verdict


@contextmanager
def _in_fp32(model: nn.Module) -> Iterator[None]:
    """Let a model in half precision compute in fp32, with no more than a module's weights twice."""
    kept: dict[nn.Module, list[tuple[nn.Parameter, Tensor]]] = {}

    def widen(module: nn.Module, _: object) -> None:
        own = [p for p in module.parameters(recurse=False) if p.dtype in _HALF]
        kept[module] = [(parameter, parameter.data) for parameter in own]
        for parameter in own:
            parameter.data = parameter.data.float()

    def restore(module: nn.Module, *_: object) -> None:
        for parameter, data in kept.pop(module, ()):
            parameter.data = data

    handles = [
        handle
        for module in model.modules()
        if any(p.dtype in _HALF for p in module.parameters(recurse=False))
        for handle in (
            module.register_forward_pre_hook(widen),
            module.register_forward_hook(restore, always_call=True),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def packed_attention(model: Any) -> AbstractContextManager[None]:
    """Let a model attend within the segments of the `layout` that it is called with."""
    return attention(model, NAME, _attend)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - the interface of transformers
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    layout: Layout | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention within each segment, and to those that it continues.

    Shapes: query (1, heads, tokens, width), key and value (1, key heads, tokens, width); returns
    (1, tokens, heads, width).
    """
    if softcap is not None or s_aux is not None:
        raise ValueError("attention with a soft cap or sinks has no packed form")
    if layout is None:
        raise NoLayoutError
    tiles = layout.tiles(sliding_window, gpu=query.is_cuda)
    groups = query.shape[1] // key.shape[1]
    if query.is_cuda and groups > 1:
        # Its kernels that take a mask want a key head for each query head.
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    dropout = dropout if module.training else 0.0
    lengths = [tile.length for tile in tiles]
    # Split at once: the gradient of that is one tensor, where slices would each fill a whole one.
    queries, keys, values = (t.split_with_sizes(lengths, dim=2) for t in (query, key, value))
    parts = []
    masks = layout.masks(sliding_window, query)
    for number, (tile, mask) in enumerate(zip(tiles, masks, strict=True)):
        k, v = (
            torch.cat([*(split[i] for i in tile.before), split[number]], dim=2)
            if tile.before
            else split[number]
            for split in (keys, values)
        )
        if suits_products(query, k, dropout):
            parts.append(attend_by_products(queries[number], k, v, mask, scale))
            continue
        parts.append(
            functional.scaled_dot_product_attention(
                queries[number],
                k,
                v,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scale,
                enable_gqa=k.shape[1] != query.shape[1],
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2), None
