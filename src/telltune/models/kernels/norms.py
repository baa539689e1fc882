"""RMSNorm with an explicit derivative, which saves the memory and passes of autograd.

Transformers implements it as six operations, each of which keeps an fp32 tensor and has its own
derivative. A small model spends one seventh of a training step there.
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

__all__ = ["FusedRMSNorm"]

_EPSILONS = ("variance_epsilon", "eps")


class FusedRMSNorm:
    """A context in which a model's frozen RMSNorm layers compute with few operations.

    Some architectures use another formula, e.g. 1 + weight or a subtracted mean. A layer whose
    output differs from this implementation is unchanged.

    Args:
        model: Any model.
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

    def __enter__(self) -> FusedRMSNorm:
        for module, epsilon in self._norms:
            module.forward = partial(_normalized, module, epsilon)
        return self

    def __exit__(self, *_: object) -> None:
        for module, _epsilon in self._norms:
            del module.forward


def _epsilon(module: Any) -> float | None:
    """Return the epsilon of an RMSNorm layer; None for other layers."""
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
    # Use random weights, because weights that are all one or zero would hide differences.
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
        # One call instead of eight: with few tokens the call overhead dominates.
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
