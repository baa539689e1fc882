"""Attention of a tile as matrix products, for bf16 on a CPU.

PyTorch's fused kernel converts bf16 at every block: forward and backward of a tile of 128 tokens
were measured at 1.9 ms with it on two Zen 5 cores, and at 0.4 ms as products. It costs memory to
keep the weights of those, so the longest tiles are left to the kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Function

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["attend_by_products", "suits_products"]

# Keys of a tile, at most: so what is kept of a token stays below a fixed size.
_LONGEST = 1024
# Queries at once: of the keys behind the last of them nothing is computed.
_BLOCK = 192


def suits_products(query: Tensor, key: Tensor, dropout: float) -> bool:
    """Whether products are the quicker way: bf16 on a CPU, and few keys."""
    return (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and key.shape[2] <= _LONGEST
        and not dropout
    )


def attend_by_products(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """softmax(scale Q K^T + mask) V, with as many query heads to a key head as there are.

    Args:
        query: (1, heads, tokens, width).
        key: (1, key heads, keys, width).
        value: As key.
        mask: (tokens, keys), added; None for plain causal attention.
        scale: Of the scores.

    Returns:
        (1, heads, tokens, width).
    """
    tokens, keys = query.shape[2], key.shape[2]
    if mask is None:
        mask = torch.full((tokens, keys), float("-inf"), dtype=query.dtype).triu_(1)
    attended: Tensor = _Products.apply(query[0], key[0], value[0], mask, scale)  # type: ignore[no-untyped-call]
    return attended[None]


def _blocks(tensor: Tensor) -> Sequence[Tensor]:
    parts: Sequence[Tensor] = tensor.split(_BLOCK, 1)  # type: ignore[no-untyped-call]
    return parts


class _Products(Function):
    """With its derivative written out, so that nothing but the weights is kept."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float
    ) -> Tensor:
        parts, kept = [], []
        before = key.shape[1] - query.shape[1]
        for q, hidden in zip(_blocks(query), _blocks(mask[None]), strict=True):
            heads, tokens, width = q.shape
            before += tokens
            k, v = key[:, :before], value[:, :before]
            by_head = q.reshape(len(k), -1, width)
            scores = torch.bmm(by_head, k.transpose(1, 2)).view(heads, tokens, before)
            # As the eager attention of transformers: scores in bf16, their softmax in fp32.
            scores = scores.float().mul_(scale).add_(hidden[0, :, :before])
            weights = torch.softmax(scores, -1).to(query.dtype).view(len(k), -1, before)
            parts.append(torch.bmm(weights, v).view(heads, tokens, width))
            kept += [by_head, weights]
        ctx.save_for_backward(key, value, *kept)
        ctx.scale = scale
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        key, value, *kept = ctx.saved_tensors
        d_query, d_key, d_value = [], torch.zeros_like(key), torch.zeros_like(value)
        for by_head, weights, g in zip(kept[::2], kept[1::2], _blocks(gradient), strict=True):
            before = weights.shape[2]
            by_value = g.reshape(by_head.shape)
            d_value[:, :before] += torch.bmm(weights.transpose(1, 2), by_value)
            d_weights = torch.bmm(by_value, value[:, :before].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_scores.mul_(ctx.scale)
            d_query.append(torch.bmm(d_scores, key[:, :before]).view(g.shape))
            d_key[:, :before] += torch.bmm(d_scores.transpose(1, 2), by_head)
        return torch.cat(d_query, 1), d_key, d_value, None, None
