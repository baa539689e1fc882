"""Attention of a packed row as matrix products.

They are used in two cases:

- In bf16 on a CPU. PyTorch's fused kernel converts bf16 at every block. Forward and backward of a
  tile of 128 tokens took 1.9 ms with it on two Zen 5 cores, and 0.4 ms as products. Products keep
  the attention weights in memory, so rows with very long examples use the kernel.
- For scores with a soft cap (Gemma 2, arXiv 2408.00118, section 2) and for attention sinks
  (gpt-oss). PyTorch's kernels support neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Function

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from telltune.models.kernels.layout import Block


def suits_products(query: Tensor, dropout: float) -> bool:
    """Return whether products are faster than the kernel: bf16 on a CPU without dropout."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and not dropout


def cap(scores: Tensor, softcap: float | None) -> Tensor:
    """Return c tanh(scores / c), computed in place; None leaves the scores as they are."""
    return scores if softcap is None else scores.div_(softcap).tanh_().mul_(softcap)


def softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Return attention weights over the last dimension, in fp32.

    Args:
        scores: Scores with mask, (..., keys).
        sinks: Logit of a further key without a value, which takes its share of the weights;
            broadcasts to (..., 1). None for none.
    """
    scores = scores.float()
    weights = torch.softmax(scores, -1)
    if sinks is None:
        return weights
    total = scores.logsumexp(-1, keepdim=True)
    return weights.mul_(torch.sigmoid(total - sinks))


def attend_by_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocks: Sequence[Block],
    scale: float,
    *,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Compute softmax(cap(scale Q K^T) + hidden) V, with grouped query heads.

    Args:
        query: Queries, (1, heads, tokens, width).
        key: Keys, (1, key heads, tokens, width).
        value: Values, (1, key heads, tokens, width).
        blocks: Blocks of the row.
        scale: Factor of the scores.
        softcap: Bound c of the scores, which are c tanh(score / c); None for none.
        sinks: Logit of each head's sink, (heads,); None for none.

    Returns:
        Attention output, (1, tokens, heads, width).
    """
    attended: Tensor = _Products.apply(query, key, value, sinks, blocks, scale, softcap)  # type: ignore[no-untyped-call]
    return attended


class _Products(Function):
    """Attention with an explicit derivative, which keeps no intermediate but the weights."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        blocks: Sequence[Block],
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        _, heads, tokens, width = query.shape
        groups = key.shape[1]
        attended = query.new_empty(1, tokens, heads, width)
        by_head = None if sinks is None else sinks.float().view(heads, 1, 1)
        kept = []
        for start, stop, spans, hidden in blocks:
            count = stop - start
            scaled = query.new_empty(heads, count, width)
            torch.mul(query[0, :, start:stop], scale, out=scaled)
            scaled = scaled.view(groups, -1, width)
            scores = torch.bmm(scaled, _taken(key, spans).transpose(1, 2))
            # As in the eager attention of transformers: scores in bf16, softmax in fp32.
            scores = cap(scores.view(heads, count, -1).float(), softcap).add_(hidden)
            weights = softmax(scores, by_head).to(query.dtype).view(groups, -1, scores.shape[2])
            result = torch.bmm(weights, _taken(value, spans)).view(heads, count, width)
            attended[0, start:stop] = result.transpose(0, 1)
            kept += [scaled, weights]
        ctx.save_for_backward(key, value, *kept)
        ctx.blocks, ctx.scale, ctx.softcap = blocks, scale, softcap
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        key, value, *kept = ctx.saved_tensors
        d_query = torch.empty_like(gradient)
        # A prefix receives gradients from many blocks, so they are summed in fp32.
        d_key, d_value = (torch.zeros_like(t[0], dtype=torch.float32) for t in (key, value))
        d_sinks = gradient.new_zeros(gradient.shape[2]) if ctx.needs_input_grad[3] else None
        for block, scaled, weights in zip(ctx.blocks, kept[::2], kept[1::2], strict=True):
            start, stop, spans, _ = block
            here = gradient[0, start:stop].transpose(0, 1)
            by_head = here.reshape(scaled.shape)
            _add(d_value, spans, torch.bmm(weights.transpose(1, 2), by_head))
            d_weights = torch.bmm(by_head, _taken(value, spans).transpose(1, 2))
            if d_sinks is not None:
                # The sink's own weight is what those of the keys lack of one; its value is zero.
                inner = torch.linalg.vecdot(weights, d_weights) * (weights.sum(-1) - 1)
                d_sinks += inner.view(len(d_sinks), -1).sum(-1)
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            keys = _taken(key, spans)
            if ctx.softcap is not None:
                # Scores are computed again, which takes less memory than keeping them.
                slope = torch.bmm(scaled, keys.transpose(1, 2)).div_(ctx.softcap).tanh_().square_()
                d_scores.addcmul_(d_scores, slope, value=-1)
            d_scaled = torch.bmm(d_scores, keys).view(here.shape)
            torch.mul(d_scaled.transpose(0, 1), ctx.scale, out=d_query[0, start:stop])
            _add(d_key, spans, torch.bmm(d_scores.transpose(1, 2), scaled))
        d_keys = (t.to(key.dtype)[None] for t in (d_key, d_value))
        return d_query.transpose(1, 2), *d_keys, d_sinks, None, None, None


def _taken(tensor: Tensor, spans: tuple[tuple[int, int], ...]) -> Tensor:
    """Select the tokens of `spans` from (1, heads, tokens, width); returns (heads, keys, width)."""
    parts = [tensor[0, :, start:stop] for start, stop in spans]
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def _add(total: Tensor, spans: tuple[tuple[int, int], ...], share: Tensor) -> None:
    sizes = [stop - start for start, stop in spans]
    for (start, stop), part in zip(spans, share.split_with_sizes(sizes, 1), strict=True):
        total[:, start:stop] += part
