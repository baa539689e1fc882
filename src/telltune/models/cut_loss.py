"""The loss of the output layer without keeping its logits.

Some positions at a time, by `chunked_loss`, where the layer is not trained itself; else on a GPU,
where it is installed, by the kernels of cut-cross-entropy (arXiv 2411.09009), which want half
precision. Both want a plain output layer. What a model does to its logits afterwards is done to
what that layer reads, which is the same for a scale and another thing for a soft cap; so whether
the loss is the model's own is tried, not guessed.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from telltune.models.chunked_loss import chunked_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

__all__ = ["CutLoss", "cut_loss"]

_TRIED_ON = 16
"""Tokens."""


@dataclass(frozen=True)
class CutLoss:
    """Inside it a model gives, in place of logits, what its output layer would have read.

    Attributes:
        head: The output layer.
        cross_entropy: (hidden, weight, targets) → the loss of each target.
    """

    head: nn.Linear
    cross_entropy: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __enter__(self) -> None:
        self.head.forward = nn.Identity().forward  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        # The class's own is behind it.
        del self.head.forward

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The negative log-likelihood of each target, in nats, fp32 (targets,).

        Args:
            hidden: What the model gave, (targets, hidden).
            targets: int64 (targets,).
        """
        weight = self.head.weight
        # Autocast hands outputs back in fp32.
        return self.cross_entropy(hidden.to(weight.dtype), weight, targets).float()


def cut_loss(model: Any) -> CutLoss | None:
    """The loss without logits, where it can be had and is what the model's own logits give.

    Args:
        model: A causal language model, with or without an adapter.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        return None
    was_training = model.training
    model.train(False)
    try:
        ways = _ways(head)
        return next((cut for cut in ways if _agrees(model, cut)), None)
    finally:
        model.train(was_training)


def _ways(head: nn.Linear) -> Iterator[CutLoss]:
    """The quickest first.

    The kernels give the weight its gradient, and tune themselves for each of many sizes: on an H200
    the first steps of an adapter took 1.6 to 9 s with them.
    """
    if not head.weight.requires_grad:
        yield CutLoss(head, chunked_cross_entropy)
    if _suits_kernels(head) and importlib.util.find_spec("cut_cross_entropy") is not None:
        from cut_cross_entropy import linear_cross_entropy

        yield CutLoss(head, partial(linear_cross_entropy, reduction="none"))


@torch.no_grad()
def _agrees(model: Any, cut: CutLoss) -> bool:
    """Whether both ways give a row of random tokens the same loss."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(cut.head.out_features, (1, _TRIED_ON), generator=generator)
    ids = ids.to(cut.head.weight.device)
    wanted = functional.cross_entropy(model(ids).logits[0].float(), ids[0], reduction="none")
    try:
        with cut:
            found = cut.nll(model(ids).logits[0], ids[0])
    except Exception as error:  # Triton has kinds of its own for what it cannot compile.
        logging.getLogger(__name__).warning("%s is not used: %s", _name(cut), error)
        return False
    return torch.allclose(found, wanted, rtol=0.02, atol=0.02)


def _name(cut: CutLoss) -> str:
    return "chunked loss" if cut.cross_entropy is chunked_cross_entropy else "cut-cross-entropy"


def _suits_kernels(head: nn.Linear) -> bool:
    """Whether they take an output layer: on a GPU, in half precision."""
    return head.weight.is_cuda and head.weight.dtype in (torch.bfloat16, torch.float16)
