"""Key-value cache of many growing sequences and of their shared prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

from telltune.models.kernels.attention import NoLayoutError
from telltune.models.kernels.attention_products import cap, softmax
from telltune.models.kernels.layout import CHUNK, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

# Number of queries whose scores are held at once by `_attend_plainly`.
_QUERIES = 256


class AttentionKind(NamedTuple):
    """Kind of attention that a layer asks for."""

    scaling: float
    """Factor of the products of queries and keys."""
    window: int | None = None
    """Number of tokens that a token sees, itself included; None for no limit."""
    softcap: float | None = None
    """Bound of the scores; None for none."""
    sinks: Tensor | None = None
    """Logit of each head's attention sink, (heads,); None for none."""

    @property
    def is_usual(self) -> bool:
        """Whether PyTorch's attention computes it."""
        return self.softcap is None and self.sinks is None


class KeyValues:
    """Key-value cache of the sequences being generated.

    The first `len(lengths)` rows hold the sequences, left-aligned. The shared prefix is stored
    separately, once.

    Args:
        rows: Maximum number of sequences.
        width: Maximum number of tokens of a sequence, without the prefix.
        prefix: Keys and values of the shared prefix by layer, each (key heads, tokens, width).

    Attributes:
        kinds: Kind of attention that each layer asked for, by layer.
    """

    def __init__(
        self, rows: int, width: int, prefix: dict[int, tuple[Tensor, Tensor]] | None = None
    ) -> None:
        self.rows, self.width = rows, width
        self.prefix = prefix or {}
        self.lengths: list[int] = []
        self.kinds: dict[int, AttentionKind] = {}
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._new: list[int] = []
        self._at = torch.empty(0, 0, dtype=torch.int64)
        self._moved: dict[int | None, tuple[Tensor, Tensor, Tensor, Tensor | None]] = {}
        self._masks: dict[tuple[int, int, int | None], Tensor] = {}

    @property
    def prefix_length(self) -> int:
        """Number of tokens of the shared prefix."""
        return next(iter(self.prefix.values()))[0].shape[1] if self.prefix else 0

    def reserve(self, rows: int, width: int) -> None:
        """Make room for this many sequences of this width, and keep those that are stored.

        Sizes are rounded up, so that stored sequences are seldom copied.
        """
        if rows <= self.rows and width <= self.width:
            return
        self.rows, self.width = 1 << (rows - 1).bit_length(), -(-width // CHUNK) * CHUNK
        count, longest = len(self.lengths), max(self.lengths, default=0)
        for layer, kept in self._layers.items():
            shape = (self.rows, kept[0].shape[1], self.width, kept[0].shape[3])
            keys, values = (old.new_zeros(shape) for old in kept)
            for new, old in zip((keys, values), kept, strict=True):
                new[:count, :, :longest] = old[:count, :, :longest]
            self._layers[layer] = keys, values

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
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, kind: AttentionKind
    ) -> Tensor:
        """Store keys and values and return the attention output, (1, tokens, heads, width).

        Args:
            layer: Index of the layer.
            query: Queries of the tokens of this pass, (1, heads, tokens, width).
            key: Keys of the same tokens, (1, key heads, tokens, width).
            value: Values of the same tokens, (1, key heads, tokens, width).
            kind: Kind of attention of the layer.
        """
        if layer not in self._layers:
            shape = (self.rows, key.shape[1], self.width, key.shape[3])
            # Masked values are multiplied by zero, so they must not be NaN.
            self._layers[layer] = (key.new_zeros(shape), key.new_zeros(shape))
        self.kinds[layer] = kind
        if self._new:
            part = self._start_rows
        else:
            part = self._grow_one if len(self.lengths) == 1 else self._grow_rows
        longest = max(self._new) if self._new else max(self.lengths) + self._at.shape[1]
        if kind.window is not None and kind.window >= self.prefix_length + longest:
            kind = kind._replace(window=None)  # The window hides nothing.
        return part(layer, query, key, value, kind)

    def _seen_prefix(self, layer: int, window: int | None) -> tuple[Tensor, Tensor] | None:
        """Return keys and values of the part of the prefix that any token of this pass sees.

        Each is (key heads, tokens, width). The result is None if no token sees any of it.
        """
        hidden = self._hidden_prefix(window)
        if hidden == self.prefix_length:
            return None
        keys, values = self.prefix[layer]
        return keys[:, hidden:], values[:, hidden:]

    def _hidden_prefix(self, window: int | None) -> int:
        """Return the number of tokens of the prefix that a window hides from this whole pass."""
        if window is None:
            return 0
        first = 0 if self._new else min(self.lengths)
        return min(max(self.prefix_length + first + 1 - window, 0), self.prefix_length)

    def _start_rows(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, kind: AttentionKind
    ) -> Tensor:
        keys, values = self._layers[layer]
        before = self._seen_prefix(layer, kind.window)
        parts = []
        split = (t.split_with_sizes(self._new, dim=2) for t in (query, key, value))
        for row, (q, k, v) in enumerate(zip(*split, strict=True), start=len(self.lengths)):
            length = q.shape[2]
            keys[row, :, :length] = k[0]
            values[row, :, :length] = v[0]
            if before is not None:
                k, v = (torch.cat([b[None], own], 2) for b, own in zip(before, (k, v), strict=True))
            prefix = k.shape[2] - length
            masked = prefix or kind.window is not None or not kind.is_usual
            mask = self._mask(length, prefix, kind.window, q) if masked else None
            if kind.is_usual:
                attended = functional.scaled_dot_product_attention(
                    q,
                    k,
                    v,
                    attn_mask=mask,
                    is_causal=mask is None,
                    scale=kind.scaling,
                    enable_gqa=k.shape[1] != q.shape[1],
                )
            else:
                attended = _attend_plainly(q, k, v, mask, kind)
            parts.append(attended)
        return torch.cat(parts, dim=2).transpose(1, 2)

    def _mask(self, length: int, prefix: int, window: int | None, like: Tensor) -> Tensor:
        asked = (length, prefix, window)
        if asked not in self._masks:
            self._masks[asked] = _added(~visible(*asked)).to(like)
        return self._masks[asked]

    def _grow_one(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, kind: AttentionKind
    ) -> Tensor:
        tokens, start = query.shape[2], self.lengths[0]
        parts = []
        for all_of_them, new in zip(self._layers[layer], (key, value), strict=True):
            all_of_them[0, :, start : start + tokens] = new[0]
            parts.append(all_of_them[:1, :, : start + tokens])
        if (before := self._seen_prefix(layer, kind.window)) is not None:
            parts = [torch.cat([b[None], own], 2) for b, own in zip(before, parts, strict=True)]
        keys, values = parts
        mask = None
        if tokens > 1 or kind.window is not None:
            mask = self._mask(tokens, keys.shape[2] - tokens, kind.window, query)
        if not kind.is_usual:
            return _attend_plainly(query, keys, values, mask, kind).transpose(1, 2)
        # Queries of the same key head are treated as tokens of it. In bf16 on a CPU this is three
        # to five times as fast as PyTorch's `enable_gqa`.
        heads, width = keys.shape[1], keys.shape[3]
        grouped = query.reshape(1, heads, -1, width)
        if mask is not None:
            mask = mask.repeat(grouped.shape[2] // tokens, 1)
        attended = functional.scaled_dot_product_attention(
            grouped, keys, values, attn_mask=mask, scale=kind.scaling
        )
        return attended.view(1, -1, tokens, width).transpose(1, 2)

    def _grow_rows(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, kind: AttentionKind
    ) -> Tensor:
        keys, values = self._layers[layer]
        rows, tokens = self._at.shape
        heads, width = key.shape[1], key.shape[3]
        index, at, seen, seen_before = self._where(kind.window, key)
        keys[index, :, at] = key[0].transpose(0, 1).view(rows, tokens, heads, width)
        values[index, :, at] = value[0].transpose(0, 1).view(rows, tokens, heads, width)
        longest = seen.shape[2]
        # Queries grouped by key head: (rows, key heads, tokens x queries, width).
        q = query[0].transpose(0, 1).reshape(rows, tokens, heads, -1, width).transpose(1, 2)
        shape = q.shape
        q = q.reshape(rows, heads, -1, width) * kind.scaling
        scores = q @ keys[:rows, :, :longest].transpose(2, 3)
        scores = cap(scores, kind.softcap)
        scores += seen.repeat_interleave(shape[3], dim=1)[:, None]
        prefix = self._seen_prefix(layer, kind.window)
        length = 0
        if prefix is not None:
            length = prefix[0].shape[1]
            # One product for all sequences: (key heads, rows x queries, width).
            by_head = q.transpose(0, 1).reshape(heads, -1, width)
            before = (by_head @ prefix[0].transpose(1, 2)).view(heads, rows, q.shape[2], -1)
            before = cap(before, kind.softcap).transpose(0, 1)
            if seen_before is not None:
                before = before + seen_before.repeat_interleave(shape[3], dim=1)[:, None]
            scores = torch.cat([before, scores], dim=3)
        sinks = kind.sinks
        if sinks is not None:
            # By key head, for each token the queries of that head.
            sinks = sinks.float().view(heads, -1).repeat(1, tokens)[..., None]
        weights = softmax(scores, sinks).to(q.dtype)
        attended = weights[..., length:] @ values[:rows, :, :longest]
        if prefix is not None:
            by_head = weights[..., :length].transpose(0, 1).reshape(heads, -1, length)
            part = (by_head @ prefix[1]).view(heads, rows, q.shape[2], width)
            attended += part.transpose(0, 1)
        return attended.view(shape).transpose(1, 2).reshape(1, rows * tokens, -1, width)

    def _where(
        self, window: int | None, like: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the row and position of each new token, and masks to add to attention scores.

        The first layer of each pass computes them; later layers reuse them.

        Returns:
            Row indices (rows, 1), positions (rows, tokens), and the mask of the sequences (rows,
            tokens, longest). If there is a window, also the mask of the part of the prefix that
            some token sees (rows, tokens, seen), else None.
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
                prefix = torch.arange(self._hidden_prefix(window), self.prefix_length)
                before = _added(self.prefix_length + at - prefix >= window).to(like)
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


def _attend_plainly(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, kind: AttentionKind
) -> Tensor:
    """Compute attention with a soft cap or sinks, with grouped query heads.

    Args:
        query: Queries, (1, heads, tokens, width).
        key: Keys, (1, key heads, keys, width).
        value: Values, (1, key heads, keys, width).
        mask: Mask to add to the scores, (tokens, keys); None for none.
        kind: Kind of attention of the layer.

    Returns:
        Attention output, (1, heads, tokens, width).
    """
    groups, width = key.shape[1], key.shape[3]
    sinks = None if kind.sinks is None else kind.sinks.float()[:, None, None]
    parts = []
    for start in range(0, query.shape[2], _QUERIES):
        q = query[0, :, start : start + _QUERIES] * kind.scaling
        scores = q.reshape(groups, -1, width) @ key[0].transpose(1, 2)
        scores = cap(scores.view(*q.shape[:2], -1), kind.softcap)
        if mask is not None:
            scores += mask[start : start + _QUERIES]
        weights = softmax(scores, sinks).to(q.dtype)
        parts.append((weights.view(groups, -1, key.shape[2]) @ value[0]).view(q.shape))
    return torch.cat(parts, 1)[None]


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
        NoLayoutError: `key_values` is None.
    """
    if key_values is None:
        raise NoLayoutError
    layer: int = module.layer_idx  # type: ignore[assignment]
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    kind = AttentionKind(scale, sliding_window, softcap, s_aux)
    return key_values.attend(layer, query, key, value, kind), None
