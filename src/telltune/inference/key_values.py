"""Key-value cache of many growing sequences and of their shared prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

from telltune.models.kernels.attention import NoLayoutError
from telltune.models.kernels.blocks import CHUNK
from telltune.models.kernels.layout import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

__all__ = ["KeyValues", "attend"]


class _Asked(NamedTuple):
    """Arguments of `KeyValues.attend`; the window is None if it hides nothing."""

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float | None
    window: int | None


class KeyValues:
    """Key-value cache of the sequences being generated.

    The first `len(lengths)` rows hold the sequences, left-aligned. The shared prefix is stored
    separately, once.

    Args:
        rows: Maximum number of sequences.
        width: Maximum number of tokens of a sequence, without the prefix.
        prefix: Keys and values of the shared prefix by layer, each (key heads, tokens, width).
    """

    def __init__(
        self, rows: int, width: int, prefix: dict[int, tuple[Tensor, Tensor]] | None = None
    ) -> None:
        self.rows, self.width = rows, width
        self.prefix = prefix or {}
        self.lengths: list[int] = []
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._new: list[int] = []
        self._at = torch.empty(0, 0, dtype=torch.int64)
        self._moved: dict[int | None, tuple[Tensor, Tensor, Tensor, Tensor | None]] = {}
        self._masks: dict[tuple[int, int, int | None], Tensor] = {}

    @property
    def prefix_length(self) -> int:
        """Number of tokens of the shared prefix."""
        return next(iter(self.prefix.values()))[0].shape[1] if self.prefix else 0

    def start(self, lengths: Sequence[int]) -> None:
        """Prepare a pass over new sequences of these lengths, concatenated in one row."""
        self._new = list(lengths)
        self._masks = {}

    def grow(self, tokens: int = 1) -> None:
        """Prepare a pass over this number of further tokens of every sequence."""
        self._new = []
        self._masks = {}
        self._at = torch.tensor(self.lengths)[:, None] + torch.arange(tokens)
        self._moved = {}

    def done(self) -> None:
        """Update the lengths after a pass through all layers."""
        grown = self._at.shape[1]
        self.lengths = self.lengths + self._new if self._new else [n + grown for n in self.lengths]

    def shorten(self, row: int, tokens: int) -> None:
        """Remove the last tokens of a sequence."""
        self.lengths[row] -= tokens

    def remove(self, row: int) -> None:
        """Remove a sequence; the last sequence is moved to its row."""
        last = len(self.lengths) - 1
        if row != last:
            length = self.lengths[last]
            for keys, values in self._layers.values():
                keys[row, :, :length] = keys[last, :, :length]
                values[row, :, :length] = values[last, :, :length]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float | None,
        window: int | None = None,
    ) -> Tensor:
        """Store keys and values and return the attention output, (1, tokens, heads, width).

        Args:
            layer: Index of the layer.
            query: Queries of the tokens of this pass, (1, heads, tokens, width).
            key: Keys of the same tokens, (1, key heads, tokens, width).
            value: Values of the same tokens, (1, key heads, tokens, width).
            scaling: Factor of the products of queries and keys; None for the default, width^-0.5.
            window: Number of tokens that a token sees, itself included; None for no limit.
        """
        if layer not in self._layers:
            shape = (self.rows, key.shape[1], self.width, key.shape[3])
            # Masked values are multiplied by zero, so they must not be NaN.
            self._layers[layer] = (key.new_zeros(shape), key.new_zeros(shape))
        if self._new:
            part = self._start_rows
        else:
            part = self._grow_one if len(self.lengths) == 1 else self._grow_rows
        longest = max(self._new) if self._new else max(self.lengths) + self._at.shape[1]
        if window is not None and window >= self.prefix_length + longest:
            window = None  # The window hides nothing.
        return part(_Asked(layer, query, key, value, scaling, window))

    def _start_rows(self, asked: _Asked) -> Tensor:
        layer, query, key, value, scaling, window = asked
        keys, values = self._layers[layer]
        parts = []
        split = (t.split_with_sizes(self._new, dim=2) for t in (query, key, value))
        for row, (q, k, v) in enumerate(zip(*split, strict=True), start=len(self.lengths)):
            length = q.shape[2]
            keys[row, :, :length] = k[0]
            values[row, :, :length] = v[0]
            if self.prefix:
                prefix_keys, prefix_values = self.prefix[layer]
                k = torch.cat([prefix_keys[None], k], dim=2)
                v = torch.cat([prefix_values[None], v], dim=2)
            prefix = k.shape[2] - length
            masked = prefix or window is not None
            mask = self._mask(length, prefix, window, q) if masked else None
            parts.append(
                functional.scaled_dot_product_attention(
                    q,
                    k,
                    v,
                    attn_mask=mask,
                    is_causal=mask is None,
                    scale=scaling,
                    enable_gqa=k.shape[1] != q.shape[1],
                )
            )
        return torch.cat(parts, dim=2).transpose(1, 2)

    def _mask(self, length: int, prefix: int, window: int | None, like: Tensor) -> Tensor:
        asked = (length, prefix, window)
        if asked not in self._masks:
            self._masks[asked] = _added(~visible(*asked)).to(like)
        return self._masks[asked]

    def _grow_one(self, asked: _Asked) -> Tensor:
        layer, query, key, value, scaling, window = asked
        tokens, start = query.shape[2], self.lengths[0]
        parts = []
        for all_of_them, new in zip(self._layers[layer], (key, value), strict=True):
            all_of_them[0, :, start : start + tokens] = new[0]
            parts.append(all_of_them[:1, :, : start + tokens])
        if self.prefix:
            parts = [
                torch.cat([before[None], own], dim=2)
                for before, own in zip(self.prefix[layer], parts, strict=True)
            ]
        keys, values = parts
        # Queries of the same key head are treated as tokens of it. In bf16 on a CPU this is three
        # to five times as fast as PyTorch's `enable_gqa`.
        heads, width = keys.shape[1], keys.shape[3]
        grouped = query.reshape(1, heads, -1, width)
        mask = None
        if tokens > 1 or window is not None:
            mask = self._mask(tokens, keys.shape[2] - tokens, window, query)
            mask = mask.repeat(grouped.shape[2] // tokens, 1)
        attended = functional.scaled_dot_product_attention(
            grouped, keys, values, attn_mask=mask, scale=scaling
        )
        return attended.view(1, -1, tokens, width).transpose(1, 2)

    def _grow_rows(self, asked: _Asked) -> Tensor:
        layer, query, key, value, scaling, window = asked
        keys, values = self._layers[layer]
        rows, tokens = self._at.shape
        heads, width = key.shape[1], key.shape[3]
        index, at, seen, seen_before = self._where(window, key)
        keys[index, :, at] = key[0].transpose(0, 1).view(rows, tokens, heads, width)
        values[index, :, at] = value[0].transpose(0, 1).view(rows, tokens, heads, width)
        longest = seen.shape[2]
        # Queries grouped by key head: (rows, key heads, tokens x queries, width).
        q = query[0].transpose(0, 1).reshape(rows, tokens, heads, -1, width).transpose(1, 2)
        shape = q.shape
        q = q.reshape(rows, heads, -1, width) * (scaling if scaling is not None else width**-0.5)
        scores = q @ keys[:rows, :, :longest].transpose(2, 3)
        scores += seen.repeat_interleave(shape[3], dim=1)[:, None]
        if self.prefix:
            prefix_keys, prefix_values = self.prefix[layer]
            # One product for all sequences: (key heads, rows x queries, width).
            by_head = q.transpose(0, 1).reshape(heads, -1, width)
            before = (by_head @ prefix_keys.transpose(1, 2)).view(heads, rows, q.shape[2], -1)
            before = before.transpose(0, 1)
            if seen_before is not None:
                before = before + seen_before.repeat_interleave(shape[3], dim=1)[:, None]
            scores = torch.cat([before, scores], dim=3)
        weights = torch.softmax(scores, dim=3, dtype=torch.float32).to(q.dtype)
        length = self.prefix_length
        attended = weights[..., length:] @ values[:rows, :, :longest]
        if self.prefix:
            by_head = weights[..., :length].transpose(0, 1).reshape(heads, -1, length)
            part = (by_head @ prefix_values).view(heads, rows, q.shape[2], width)
            attended += part.transpose(0, 1)
        return attended.view(shape).transpose(1, 2).reshape(1, rows * tokens, -1, width)

    def _where(
        self, window: int | None, like: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the row and position of each new token, and masks to add to attention scores.

        The first layer of each pass computes them; later layers reuse them.

        Returns:
            Row indices (rows, 1), positions (rows, tokens), and the mask of the sequences (rows,
            tokens, longest). If a window hides part of the prefix, also its mask (rows, tokens,
            prefix), else None.
        """
        if window not in self._moved:
            rows, tokens = self._at.shape
            at = self._at[..., None]
            # The new tokens are stored before attention reads them, so they count here. The length
            # is rounded up to few values, since a library may compile its products for each.
            longest = -(-(max(self.lengths) + tokens) // CHUNK) * CHUNK
            places = torch.arange(min(longest, self.width))
            hidden, before = places > at, None
            if window is not None:
                hidden |= at - places >= window
                distance = self.prefix_length + at - torch.arange(self.prefix_length)
                before = _added(distance >= window).to(like)
            index = torch.arange(rows)[:, None].to(like.device)
            moved = (index, self._at.to(like.device), _added(hidden).to(like), before)
            self._moved[window] = moved
        return self._moved[window]

    def as_prefix(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Return keys and values of the first sequence by layer, as a prefix for others."""
        length = self.lengths[0]
        return {
            layer: (keys[0, :, :length].clone(), values[0, :, :length].clone())
            for layer, (keys, values) in self._layers.items()
        }


def _added(hidden: Tensor) -> Tensor:
    """Return a mask to add to scores: minus infinity at hidden positions, else 0."""
    return torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - the interface of transformers
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    key_values: KeyValues | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention for transformers' `AttentionInterface`, computed by `key_values`.

    Raises:
        ValueError: The model needs a kind of attention that is not supported.
        NoLayoutError: `key_values` is None.
    """
    if softcap is not None or s_aux is not None:
        raise ValueError("attention with a soft cap or sinks is not supported")
    if key_values is None:
        raise NoLayoutError
    layer: int = module.layer_idx  # type: ignore[assignment]
    return key_values.attend(layer, query, key, value, scaling, sliding_window), None
