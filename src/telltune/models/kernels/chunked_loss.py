"""Loss of a frozen output layer with its gradient, computed a few positions at a time.

The usual loss passes over the logits of a vocabulary of 50,000 many times, for conversion,
normalization and products. The derivative of a position's loss with respect to the input of the
output layer is (softmax - target) W, up to a factor that only backward knows. A soft cap of the
logits (Gemma 2, arXiv 2408.00118, section 2) multiplies it by the slope of the cap. It is therefore
computed in the forward pass, while the logits are in the processor's cache, and no tensor of the
size of the vocabulary is kept.
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

# Number of logits in a product, and number of logits normalized at once in fp32. 8 MiB fit in the
# cache of most processors; products are efficient with more positions than that.
_LOGITS, _NORMALIZED = 2**24, 2**21
_GPU_LOGITS = 2**28
# Positions are padded to a multiple of this, so that products have few shapes.
_MULTIPLE = 16


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None
) -> Tensor:
    """Return the negative log-likelihood of each target in nats, fp32 (targets,).

    Args:
        hidden: Input of the output layer, (targets, hidden).
        weight: Weight of the output layer, (vocabulary, hidden); it gets no gradient.
        targets: Target token ids, int64 (targets,).
        softcap: Bound c of the logits, which are c tanh(logit / c); None for none.
    """
    nll: Tensor = _ChunkedNll.apply(hidden, weight, targets, softcap)  # type: ignore[no-untyped-call]
    return nll


class _ChunkedNll(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None
    ) -> Tensor:
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
                found, total = _normalize(own, aim, softcap, keep=wanted)
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
        return derivatives * gradient[:, None].to(derivatives.dtype), None, None, None


def _split(tensor: Tensor, rows: int) -> Sequence[Tensor]:
    parts: Sequence[Tensor] = tensor.split(rows)  # type: ignore[no-untyped-call]
    return parts


def _normalize(
    logits: Tensor, aims: Tensor, softcap: float | None, *, keep: bool
) -> tuple[Tensor, Tensor]:
    """Return the loss of each position, (positions,), and Σ exp(logit - largest), (positions, 1).

    Args:
        logits: Logits, (positions, vocabulary); with `keep`, overwritten with the
            derivative of the loss times that sum.
        aims: Target token ids, (positions, 1).
        softcap: Bound of the logits; None for none.
        keep: Whether the derivative is needed.
    """
    wide, slope = logits.float(), None
    if softcap is not None:
        wide = (wide / softcap).tanh_()
        slope = wide.square().neg_().add_(1) if keep else None
        wide *= softcap
    largest = wide.amax(1, keepdim=True)
    aimed = wide.gather(1, aims)
    chances = wide.sub_(largest).exp_()
    total = chances.sum(1, keepdim=True)
    nll = largest + total.log() - aimed
    if keep:
        # Subtract before rounding: for a nearly certain token the small difference matters.
        chances.scatter_add_(1, aims, -total)
        logits.copy_(chances if slope is None else chances.mul_(slope))
    return nll[:, 0], total
