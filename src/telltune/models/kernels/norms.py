"""RMSNorm with an explicit derivative, which saves the memory and passes of autograd.

Transformers implements it as six operations, each of which keeps an fp32 tensor and has its own
derivative. A small model spends one seventh of a training step there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

_EPSILONS = ("variance_epsilon", "eps")
# Most architectures scale by the weight, Gemma by 1 + weight.
_SHIFTS = (0.0, 1.0)


class FusedRMSNorm:
    """A context in which a model's frozen RMSNorm layers compute with few operations.

    Some architectures use another formula, e.g. a subtracted mean. A layer whose output differs
    from this implementation is unchanged.

    Args:
        model: Any model.
    """

    def __init__(self, model: nn.Module) -> None:
        known: dict[tuple[type, torch.dtype], float | None] = {}
        self._norms: list[_Norm] = []
        module: Any
        for module in model.modules():
            epsilon = _epsilon(module)
            if epsilon is None or (module.weight.requires_grad and torch.is_grad_enabled()):
                continue
            kind = (type(module), module.weight.dtype)
            if kind not in known:
                known[kind] = next((s for s in _SHIFTS if _agrees(module, epsilon, s)), None)
            shift = known[kind]
            if shift is not None:
                self._norms.append(_Norm(module, epsilon, shift))

    def __enter__(self) -> FusedRMSNorm:
        for norm in self._norms:
            norm.module.forward = norm
        return self

    def __exit__(self, *_: object) -> None:
        for norm in self._norms:
            norm.known = None
            del norm.module.forward


def _epsilon(module: Any) -> float | None:
    """Return the epsilon of an RMSNorm layer; None for other layers."""
    if not type(module).__name__.endswith("RMSNorm"):
        return None
    names = [name for name, _ in module.named_parameters()]
    if names != ["weight"] or module.weight.dim() != 1:
        return None
    return next((float(getattr(module, e)) for e in _EPSILONS if hasattr(module, e)), None)


@torch.no_grad()
def _agrees(module: Any, epsilon: float, shift: float) -> bool:
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(2, 3, len(module.weight), generator=generator) * 3
    row = row.to(module.weight)
    # Use random weights, because weights that are all one or zero would hide differences.
    kept = module.weight.data
    module.weight.data = torch.rand(len(kept), generator=generator).to(kept) + 0.5
    norm = _Norm(module, epsilon, shift)
    try:
        wanted = module(row)
        with torch.enable_grad():
            trained = norm(row)
        both = (trained.detach(), norm(row))
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


class _Norm:
    """The fused forward of one layer.

    Attributes:
        module: RMSNorm layer.
        epsilon: Number added to the mean square.
        shift: Number added to the weight.
        known: Shifted weight, kept between calls without gradients; None before the first.
    """

    def __init__(self, module: Any, epsilon: float, shift: float) -> None:
        self.module = module
        self.epsilon = epsilon
        self.shift = shift
        self.known: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            normalized: Tensor = _RmsNorm.apply(x, self._weight(), self.epsilon)  # type: ignore[no-untyped-call]
            return normalized
        if self.known is None:
            self.known = self._weight()
        weight = self.known
        wide = x.to(torch.promote_types(x.dtype, weight.dtype))
        # One call instead of eight: with few tokens the call overhead dominates.
        normalized = functional.rms_norm(wide, weight.shape, weight, self.epsilon)
        return normalized.to(x.dtype)

    def _weight(self) -> Tensor:
        """Return the weight, or in fp32 the shifted weight, which is multiplied before rounding."""
        weight: Tensor = self.module.weight
        return weight.float() + self.shift if self.shift else weight


class _RmsNorm(Function):
    """w x / sqrt(mean(x²) + ε) over the last dimension, in fp32; w is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        scale = scale.div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        normal: Tensor = (wide * scale).to(torch.promote_types(x.dtype, weight.dtype))
        return normal.mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, weight, scale = ctx.saved_tensors
        normal = x.float() * scale
        inner = gradient.float() * weight
        along = torch.linalg.vecdot(inner, normal).div_(x.shape[-1]).unsqueeze(-1)
        return torch.addcmul(inner, normal, along, value=-1).mul_(scale).to(x.dtype), None, None
