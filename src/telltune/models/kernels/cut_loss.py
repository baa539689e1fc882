"""Loss of the output layer without keeping its logits.

If the layer is frozen, `chunked_cross_entropy` computes a few positions at a time. Otherwise the
kernels of cut-cross-entropy (arXiv 2411.09009) are used, if they are installed; they need a GPU and
half precision. Both need a plain output layer. Operations that a model applies to its logits are
then applied to the input of that layer, which is equivalent for a scale. A soft cap is left to the
loss. The loss is compared with the model's own before it is used.

The usual loss passes over the logits of a vocabulary of 50,000 many times, for conversion,
normalization and products. The derivative of a position's loss with respect to the input of the
output layer is (softmax - target) W, up to a factor that only backward knows. A soft cap of the
logits (Gemma 2, arXiv 2408.00118, section 2) multiplies it by the slope of the cap. It is therefore
computed in the forward pass, while the logits are in the processor's cache.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

_TRIED_ON = 16
"""Number of tokens in the comparison."""


@dataclass(frozen=True)
class CutLoss:
    """A context in which a model returns the input of its output layer instead of logits.

    Attributes:
        head: Output layer.
        cross_entropy: Function from (hidden, weight, targets) and `softcap` to the loss of each
            target.
        config: Configuration from which the model reads the soft cap of its logits.
        softcap: Bound of the logits; None for none.
    """

    head: nn.Linear
    cross_entropy: Callable[..., Tensor]
    config: Any
    softcap: float | None

    def __enter__(self) -> None:
        self._set_softcap(None)
        self.head.forward = nn.Identity().forward  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        # Deleting the instance attribute restores the method of the class.
        del self.head.forward
        self._set_softcap(self.softcap)

    def _set_softcap(self, softcap: float | None) -> None:
        if self.softcap is not None:
            # Some configurations refuse None, although their models look for it.
            vars(self.config)["final_logit_softcapping"] = softcap

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the model's logits of some positions, fp32 (positions, vocabulary).

        Args:
            hidden: Output of the model in this context, (positions, hidden).
        """
        weight = self.head.weight
        logits = functional.linear(hidden.to(weight.dtype), weight).float()
        if self.softcap is not None:
            logits = (logits / self.softcap).tanh() * self.softcap
        return logits

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the negative log-likelihood of each target in nats, fp32 (targets,).

        Args:
            hidden: Output of the model in this context, (targets, hidden).
            targets: Target token ids, int64 (targets,).
        """
        weight = self.head.weight
        # Autocast returns outputs in fp32.
        hidden = hidden.to(weight.dtype)
        return self.cross_entropy(hidden, weight, targets, softcap=self.softcap).float()


def cut_loss(model: Any) -> CutLoss | None:
    """Return a loss without logits that agrees with the model's own; None if there is none."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        return None
    was_training = model.training
    model.train(False)
    try:
        ways = _ways(model, head)
        return next((cut for cut in ways if _agrees(model, cut)), None)
    finally:
        model.train(was_training)


def _ways(model: Any, head: nn.Linear) -> Iterator[CutLoss]:
    """Yield the possible losses, the fastest first.

    The kernels compute the gradient of the weight, and tune themselves for each size. On an H200
    the first steps of an adapter took 1.6 to 9 s with them.
    """
    config = model.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)
    if not (head.weight.requires_grad and torch.is_grad_enabled()):
        yield CutLoss(head, chunked_cross_entropy, config, softcap)
    if _suits_kernels(head) and importlib.util.find_spec("cut_cross_entropy") is not None:
        from cut_cross_entropy import linear_cross_entropy

        kernels = partial(linear_cross_entropy, reduction="none")
        yield CutLoss(head, kernels, config, softcap)


@torch.no_grad()
def _agrees(model: Any, cut: CutLoss) -> bool:
    """Return whether a loss agrees with the model's own on a row of random tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(cut.head.out_features, (1, _TRIED_ON), generator=generator)
    ids = ids.to(cut.head.weight.device)
    wanted = functional.cross_entropy(model(ids).logits[0].float(), ids[0], reduction="none")
    try:
        with cut:
            found = cut.nll(model(ids).logits[0], ids[0])
    except Exception as error:  # Triton raises its own types on compile errors.
        logging.getLogger(__name__).warning("%s is not used: %s", _name(cut), error)
        return False
    return torch.allclose(found, wanted, rtol=0.02, atol=0.02)


def _name(cut: CutLoss) -> str:
    return "chunked loss" if cut.cross_entropy is chunked_cross_entropy else "cut-cross-entropy"


def _suits_kernels(head: nn.Linear) -> bool:
    """Return whether the kernels support an output layer: on a GPU, in half precision."""
    return head.weight.is_cuda and head.weight.dtype in (torch.bfloat16, torch.float16)


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
