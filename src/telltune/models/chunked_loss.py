"""The loss of a frozen output layer, a few positions at a time, its gradient along with it.

Logits of a vocabulary of 50,000 are passed over again and again: made fp32, normalized, kept,
filled with zeros, multiplied, made half precision. The derivative of a position's loss with
respect to what the output layer reads, (softmax - target) W, waits for nothing but a factor. So it
is computed while the logits of some positions are still in the processor's cache, and nothing of
the size of a vocabulary is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Function
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["chunked_cross_entropy"]

# Logits of a product, and how many of them are normalized at once, in fp32: 8 MiB stay in the
# cache of most processors, where products want more positions than that.
_LOGITS, _NORMALIZED = 2**24, 2**21
_GPU_LOGITS = 2**28
# Positions are filled up to a multiple of this, so that products have few shapes.
_MULTIPLE = 16


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The negative log-likelihood of each target, in nats, fp32 (targets,).

    Args:
        hidden: What the output layer reads, (targets, hidden).
        weight: The output layer's, (vocabulary, hidden); it gets no gradient.
        targets: int64 (targets,).
    """
    nll: Tensor = _ChunkedNll.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return nll


class _ChunkedNll(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        wanted, count = ctx.needs_input_grad[0], len(targets)
        filler = -count % _MULTIPLE
        hidden = functional.pad(hidden, (0, 0, 0, filler))
        targets = functional.pad(targets, (0, filler))
        most, least = (_GPU_LOGITS,) * 2 if hidden.is_cuda else (_LOGITS, _NORMALIZED)
        few = max(least // len(weight), 1)
        rows = max(most // len(weight) // _MULTIPLE, 1) * _MULTIPLE
        nll, derivatives = [], []
        for part, aims in zip(_split(hidden, rows), _split(targets, rows), strict=True):
            logits = functional.linear(part, weight)
            sums = []
            for own, aim in zip(_split(logits, few), _split(aims[:, None], few), strict=True):
                found, total = _normalize(own, aim, keep=wanted)
                nll.append(found)
                sums.append(total)
            if wanted:
                derivatives.append((logits @ weight).div_(torch.cat(sums)))
        if wanted:
            ctx.save_for_backward(torch.cat(derivatives)[:count])
        return torch.cat(nll)[:count]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        (derivatives,) = ctx.saved_tensors
        return derivatives * gradient[:, None].to(derivatives.dtype), None, None


def _split(tensor: Tensor, rows: int) -> Sequence[Tensor]:
    parts: Sequence[Tensor] = tensor.split(rows)  # type: ignore[no-untyped-call]
    return parts


def _normalize(logits: Tensor, aims: Tensor, *, keep: bool) -> tuple[Tensor, Tensor]:
    """The loss of some positions, (positions,), and Σ exp(logit - largest), (positions, 1).

    Args:
        logits: (positions, vocabulary); with `keep` they become softmax - target, times that sum.
        aims: (positions, 1).
        keep: Whether a derivative is wanted.
    """
    wide = logits.float()
    largest = wide.amax(1, keepdim=True)
    aimed = wide.gather(1, aims)
    chances = wide.sub_(largest).exp_()
    total = chances.sum(1, keepdim=True)
    nll = largest + total.log() - aimed
    if keep:
        # Before it is rounded: of a token that is all but certain, what is left counts.
        chances.scatter_add_(1, aims, -total)
        logits.copy_(chances)
    return nll[:, 0], total
