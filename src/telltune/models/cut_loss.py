"""The loss of the output layer without its logits, on a GPU where cut-cross-entropy is installed.

The kernels of cut-cross-entropy (arXiv 2411.09009) never write a row of logits to memory. They
want half precision, and a plain output layer. What a model does to its logits afterwards is done to
what that layer reads, which is the same for a scale and another thing for a soft cap; so whether
the loss is the model's own is tried, not guessed.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["CutLoss", "cut_loss"]

_TRIED_ON = 16
"""Tokens."""


@dataclass(frozen=True)
class CutLoss:
    """Inside it a model gives, in place of logits, what its output layer would have read.

    Attributes:
        head: The output layer.
        cross_entropy: (hidden, weight, targets, reduction=...) → the loss.
    """

    head: nn.Linear
    cross_entropy: Callable[..., Tensor]

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
        found = self.cross_entropy(hidden.to(weight.dtype), weight, targets, reduction="none")
        return found.float()


def cut_loss(model: Any) -> CutLoss | None:
    """The loss without logits, where it can be had and is what the model's own logits give.

    Args:
        model: A causal language model, with or without an adapter.
    """
    head = model.get_output_embeddings()
    if not _suits(head) or importlib.util.find_spec("cut_cross_entropy") is None:
        return None
    was_training = model.training
    model.train(False)
    try:
        from cut_cross_entropy import linear_cross_entropy

        cut = CutLoss(head, linear_cross_entropy)
        return cut if _agrees(model, cut) else None
    except Exception as error:  # Triton has kinds of its own for what it cannot compile.
        logging.getLogger(__name__).warning("cut-cross-entropy is not used: %s", error)
        return None
    finally:
        model.train(was_training)


@torch.no_grad()
def _agrees(model: Any, cut: CutLoss) -> bool:
    """Whether both ways give a row of random tokens the same loss."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(cut.head.out_features, (1, _TRIED_ON), generator=generator)
    ids = ids.to(cut.head.weight.device)
    wanted = functional.cross_entropy(model(ids).logits[0].float(), ids[0], reduction="none")
    with cut:
        found = cut.nll(model(ids).logits[0], ids[0])
    return torch.allclose(found, wanted, rtol=0.02, atol=0.02)


def _suits(head: Any) -> bool:
    """Whether the kernels take an output layer: on a GPU, in half precision, bare."""
    return (
        type(head) is nn.Linear
        and head.bias is None
        and head.weight.is_cuda
        and head.weight.dtype in (torch.bfloat16, torch.float16)
    )
