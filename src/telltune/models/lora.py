"""LoRA products for training: no temporary that can be spared, one pass over what they share.

PEFT computes `base(x) + up(down(dropout(x))) * scaling` operation by operation: on a CPU drawing
the dropout alone takes as long as the base's product, and every operation keeps or copies a tensor
of the layer's size. Here layers that read the same input (queries, keys and values; gate and up)
are one autograd function with its derivative written out (Hu et al., arXiv 2106.09685, eq. 3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

__all__ = ["FusedLora", "is_plain_lora"]


class FusedLora:
    """A context in which a PEFT model computes its plain LoRA layers fused.

    Layers of other kinds (quantized, DoRA, with a bias of their own) compute as PEFT has it. The
    result is PEFT's within rounding. Dropout has PEFT's distribution, except that layers which read
    the same input share one draw.

    Args:
        model: A PEFT model, or any other, for which there is nothing to do.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = [module for module in model.modules() if is_plain_lora(module)]
        self._noise = _Noise()
        self._groups = [_Group(group, self._noise) for group in _same_input(model, layers)]

    def __enter__(self) -> FusedLora:
        self._noise.renew()
        for group in self._groups:
            group.attach()
        return self

    def __exit__(self, *_: object) -> None:
        for group in self._groups:
            group.detach()


def is_plain_lora(module: nn.Module) -> TypeGuard[Any]:
    """Whether a layer is a LoRA layer of PEFT that adds one low-rank product and nothing else."""
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or type(module.base_layer) is not nn.Linear:
        return False
    if module.merged or module.disable_adapters or len(module.active_adapters) != 1:
        return False
    name = module.active_adapters[0]
    return (
        name in module.lora_A
        and name not in module.lora_variant
        and module.lora_A[name].bias is None
        and module.lora_B[name].bias is None
    )


def _same_input(model: nn.Module, layers: Sequence[Any]) -> Iterator[list[Any]]:
    """Layers in the order of computing, together where one reads the very tensor of another.

    Seen in a pass over two tokens; what that does not reach stays as it is.
    """
    if not layers:
        return
    seen: list[tuple[Any, Tensor]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args: seen.append((layer, args[0])))
        for layer in layers
    ]
    device = next(model.parameters()).device
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(input_ids=torch.zeros(1, 2, dtype=torch.int64, device=device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    group: list[Any] = []
    shared: Tensor | None = None
    for layer, tensor in seen:
        if group and tensor is not shared:
            yield group
            group = []
        group.append(layer)
        shared = tensor
    if group:
        yield group


class _Noise:
    """Where dropout is read from: drawn once a step, at another place by every product.

    All is drawn from torch's generator of random numbers, so that a run resumed from a checkpoint
    goes on with the same. Torch itself draws dropout one number after another, which takes longer
    than the product that it is for.
    """

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Draw anew at the next asking."""
        self._seed = int(torch.randint(2**62, ()))
        self._kept = torch.empty(0)

    def kept(self, like: Tensor, probability: float) -> Tensor:
        """1 where an element of `like` is kept and 0 where it is dropped, in its shape and dtype.

        Asked again from the same state of torch's generator it gives the same, which recomputing a
        checkpointed layer relies on; a pool that has to grow begins as the smaller one did.
        """
        count = like.numel()
        if self._kept.numel() < 2 * count:
            generator = np.random.Generator(np.random.SFC64(self._seed))
            numbers = generator.integers(0, 2**16, 2 * count, dtype=np.uint16)
            self._kept = torch.from_numpy(numbers >= round(probability * 2**16)).to(like)
        start = int(torch.randint(count, ()))
        return self._kept[start : start + count].view_as(like)


class _Group:
    """Layers that read the same input; the first one asked computes for all."""

    def __init__(self, layers: list[Any], noise: _Noise) -> None:
        self.layers = layers
        self.noise = noise
        self.name = layers[0].active_adapters[0]
        dropout = layers[0].lora_dropout[self.name]
        self.probability = float(getattr(dropout, "p", 0.0))
        self._input: Tensor | None = None
        self._waiting: dict[int, Tensor] = {}

    def attach(self) -> None:
        for number, layer in enumerate(self.layers):
            layer.forward = lambda x, number=number: self._forward(number, x)

    def detach(self) -> None:
        self._input, self._waiting = None, {}
        for layer in self.layers:
            del layer.forward

    def _forward(self, number: int, x: Tensor) -> Tensor:
        if x is not self._input or number not in self._waiting:
            self._input, self._waiting = x, dict(enumerate(self._compute(x)))
        result = self._waiting.pop(number)
        if not self._waiting:
            self._input = None
        return result

    def _compute(self, x: Tensor) -> tuple[Tensor, ...]:
        layers, name = self.layers, self.name
        drops = self.probability > 0 and layers[0].training
        x = x.to(layers[0].base_layer.weight.dtype)
        kept = self.noise.kept(x, self.probability) if drops else None
        share = 1 / (1 - self.probability) if drops else 1.0
        return _LoraProducts.apply(  # type: ignore[no-untyped-call, no-any-return]
            x,
            kept,
            [layer.scaling[name] * share for layer in layers],
            *(layer.base_layer.weight for layer in layers),
            *(layer.base_layer.bias for layer in layers),
            *(layer.lora_A[name].weight for layer in layers),
            *(layer.lora_B[name].weight for layer in layers),
        )


class _LoraProducts(Function):
    """y_i = W_i x + b_i + s_i B_i A_i (k ∘ x) of several layers i; W and b are frozen.

    Shapes: x and k (..., in), W_i (out_i, in), A_i (rank_i, in), B_i (out_i, rank_i); returns a
    tuple of (..., out_i).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kept: Tensor | None, scales: list[float], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        n = len(scales)
        weights, biases, downs, ups = (tensors[i * n : (i + 1) * n] for i in range(4))
        rows = x.reshape(-1, x.shape[-1])
        read = rows if kept is None else rows * kept.view_as(rows)
        down = torch.cat(downs).to(rows.dtype)
        ranks = [len(d) for d in downs]
        hidden = read @ down.t()
        outputs = []
        for weight, bias, up, scale, h in zip(
            weights, biases, ups, scales, hidden.split_with_sizes(ranks, 1), strict=True
        ):
            y = functional.linear(rows, weight, bias)
            y.addmm_(h, up.to(rows.dtype).t(), alpha=scale)
            outputs.append(y.view(*x.shape[:-1], -1))
        # `read` is computed again in backward: it is cheaper to compute than to keep.
        ctx.save_for_backward(rows, kept, hidden, down, *weights, *ups)
        ctx.scales, ctx.ranks, ctx.shape = scales, ranks, x.shape
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        n = len(ctx.scales)
        rows, kept, hidden, down, *rest = ctx.saved_tensors
        weights, ups = rest[:n], rest[n:]
        flat = [g.reshape(-1, g.shape[-1]) for g in gradients]
        hiddens, inner = hidden.split_with_sizes(ctx.ranks, 1), []
        up_gradients = []
        for g, up, scale, h in zip(flat, ups, ctx.scales, hiddens, strict=True):
            inner.append((g @ up.to(g.dtype)).mul_(scale))
            up_gradients.append((g.t() @ h).mul_(scale).to(up.dtype))
        d_hidden = torch.cat(inner, 1)
        read = rows if kept is None else rows * kept.view_as(rows)
        down_gradients = (d_hidden.t() @ read).to(ups[0].dtype).split_with_sizes(ctx.ranks)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = d_hidden @ down
            if kept is not None:
                dx *= kept.view_as(rows)
            for g, weight in zip(flat, weights, strict=True):
                dx.addmm_(g, weight)
            dx = dx.view(ctx.shape)
        frozen = (None,) * (2 * n)
        return (dx, None, None, *frozen, *down_gradients, *up_gradients)
