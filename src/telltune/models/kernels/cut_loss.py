"""Loss of the output layer without keeping its logits.

If the layer is frozen, `chunked_loss` computes a few positions at a time. Otherwise the kernels of
cut-cross-entropy (arXiv 2411.09009) are used, if they are installed; they need a GPU and half
precision. Both need a plain output layer. Operations that a model applies to its logits are then
applied to the input of that layer, which is equivalent for a scale. A soft cap is left to the loss.
The loss is compared with the model's own before it is used.
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

from telltune.models.kernels.chunked_loss import chunked_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

__all__ = ["CutLoss", "cut_loss"]

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
    """Return a loss without logits that agrees with the model's own; None if there is none.

    Args:
        model: Causal language model, with or without an adapter.
    """
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
