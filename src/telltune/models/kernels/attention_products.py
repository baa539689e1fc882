"""Attention of a packed row as matrix products, for bf16 on a CPU.

PyTorch's fused kernel converts bf16 at every block. Forward and backward of a tile of 128 tokens
took 1.9 ms with it on two Zen 5 cores, and 0.4 ms as products. Products keep the attention weights
in memory, so rows with very long examples use the kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Function

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from telltune.models.kernels.blocks import Block

__all__ = ["attend_by_products", "suits_products"]


def suits_products(query: Tensor, dropout: float) -> bool:
    """Return whether products are faster than the kernel: bf16 on a CPU without dropout."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and not dropout


def attend_by_products(
    query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], scale: float
) -> Tensor:
    """Compute softmax(scale Q K^T + hidden) V, with grouped query heads.

    Args:
        query: Queries, (1, heads, tokens, width).
        key: Keys, (1, key heads, tokens, width).
        value: Values, (1, key heads, tokens, width).
        blocks: Blocks of the row.
        scale: Factor of the scores.

    Returns:
        Attention output, (1, tokens, heads, width).
    """
    attended: Tensor = _Products.apply(query, key, value, blocks, scale)  # type: ignore[no-untyped-call]
    return attended


class _Products(Function):
    """Attention with an explicit derivative, which keeps no intermediate but the weights."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], scale: float
    ) -> Tensor:
        _, heads, tokens, width = query.shape
        groups = key.shape[1]
        attended = query.new_empty(1, tokens, heads, width)
        kept = []
        for start, stop, spans, hidden in blocks:
            count = stop - start
            scaled = query.new_empty(heads, count, width)
            torch.mul(query[0, :, start:stop], scale, out=scaled)
            scaled = scaled.view(groups, -1, width)
            scores = torch.bmm(scaled, _taken(key, spans).transpose(1, 2))
            # As in the eager attention of transformers: scores in bf16, softmax in fp32.
            scores = scores.view(heads, count, -1).float().add_(hidden)
            weights = torch.softmax(scores, -1).to(query.dtype).view(groups, -1, scores.shape[2])
            result = torch.bmm(weights, _taken(value, spans)).view(heads, count, width)
            attended[0, start:stop] = result.transpose(0, 1)
            kept += [scaled, weights]
        ctx.save_for_backward(key, value, *kept)
        ctx.blocks, ctx.scale = blocks, scale
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        key, value, *kept = ctx.saved_tensors
        d_query = torch.empty_like(gradient)
        # A prefix receives gradients from many blocks, so they are summed in fp32.
        d_key, d_value = (torch.zeros_like(t[0], dtype=torch.float32) for t in (key, value))
        for block, scaled, weights in zip(ctx.blocks, kept[::2], kept[1::2], strict=True):
            start, stop, spans, _ = block
            here = gradient[0, start:stop].transpose(0, 1)
            by_head = here.reshape(scaled.shape)
            _add(d_value, spans, torch.bmm(weights.transpose(1, 2), by_head))
            d_weights = torch.bmm(by_head, _taken(value, spans).transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_scaled = torch.bmm(d_scores, _taken(key, spans)).view(here.shape)
            torch.mul(d_scaled.transpose(0, 1), ctx.scale, out=d_query[0, start:stop])
            _add(d_key, spans, torch.bmm(d_scores.transpose(1, 2), scaled))
        d_keys = (t.to(key.dtype)[None] for t in (d_key, d_value))
        return d_query.transpose(1, 2), *d_keys, None, None


def _taken(tensor: Tensor, spans: tuple[tuple[int, int], ...]) -> Tensor:
    """Select the tokens of `spans` from (1, heads, tokens, width); returns (heads, keys, width)."""
    parts = [tensor[0, :, start:stop] for start, stop in spans]
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def _add(total: Tensor, spans: tuple[tuple[int, int], ...], share: Tensor) -> None:
    sizes = [stop - start for start, stop in spans]
    for (start, stop), part in zip(spans, share.split_with_sizes(sizes, 1), strict=True):
        total[:, start:stop] += part
