"""RMSNorm with its derivative written out: what autograd keeps and passes over is spared.

Transformers writes it as six operations, each of which keeps a tensor in fp32 and has a derivative
of its own; a small model spends a seventh of a training step there.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["QuickNorms"]

_EPSILONS = ("variance_epsilon", "eps")


class QuickNorms:
    """A context in which a model's frozen RMSNorm layers compute with few operations.

    Architectures write the layer in several ways, some with another formula (a weight that is added
    to one, a mean taken off); a layer that does not give what ours gives computes as it is.

    Args:
        model: Any.
    """

    def __init__(self, model: nn.Module) -> None:
        known: dict[tuple[type, torch.dtype], bool] = {}
        self._norms: list[tuple[Any, float]] = []
        module: Any
        for module in model.modules():
            epsilon = _epsilon(module)
            if epsilon is None or (module.weight.requires_grad and torch.is_grad_enabled()):
                continue
            kind = (type(module), module.weight.dtype)
            if kind not in known:
                known[kind] = _agrees(module, epsilon)
            if known[kind]:
                self._norms.append((module, epsilon))

    def __enter__(self) -> QuickNorms:
        for module, epsilon in self._norms:
            module.forward = partial(_normalized, module, epsilon)
        return self

    def __exit__(self, *_: object) -> None:
        for module, _epsilon in self._norms:
            del module.forward


def _epsilon(module: Any) -> float | None:
    """What it adds to the mean of squares; None where it is no such layer."""
    if not type(module).__name__.endswith("RMSNorm"):
        return None
    names = [name for name, _ in module.named_parameters()]
    if names != ["weight"] or module.weight.dim() != 1:
        return None
    return next((float(getattr(module, e)) for e in _EPSILONS if hasattr(module, e)), None)


@torch.no_grad()
def _agrees(module: Any, epsilon: float) -> bool:
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(2, 3, len(module.weight), generator=generator) * 3
    row = row.to(module.weight)
    # The weights that it came with may be all one, or zero, and hide what is done with them.
    kept = module.weight.data
    module.weight.data = torch.rand(len(kept), generator=generator).to(kept) + 0.5
    try:
        wanted = module(row)
        with torch.enable_grad():
            trained = _normalized(module, epsilon, row)
        both = (trained.detach(), _normalized(module, epsilon, row))
    except (TypeError, ValueError, RuntimeError):
        return False
    finally:
        module.weight.data = kept
    tolerance = 1e-5 if row.dtype == torch.float32 else 0.02
    return all(
        found.dtype == wanted.dtype
        and found.shape == wanted.shape
        and torch.allclose(found, wanted, rtol=tolerance, atol=tolerance)
        for found in both
    )


def _normalized(module: Any, epsilon: float, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        # One call in place of eight: of a few tokens the calls are what takes time.
        return functional.rms_norm(x, module.weight.shape, module.weight, epsilon)
    normalized: Tensor = _RmsNorm.apply(x, module.weight, epsilon)  # type: ignore[no-untyped-call]
    return normalized


class _RmsNorm(Function):
    """w x / sqrt(mean(x²) + ε) over the last dimension, in fp32; w is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        scale = scale.div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        normal: Tensor = (wide * scale).to(x.dtype)
        return normal.mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, weight, scale = ctx.saved_tensors
        normal = x.float() * scale
        inner = gradient.float() * weight
        along = torch.linalg.vecdot(inner, normal).div_(x.shape[-1]).unsqueeze(-1)
        return torch.addcmul(inner, normal, along, value=-1).mul_(scale).to(x.dtype), None, None
