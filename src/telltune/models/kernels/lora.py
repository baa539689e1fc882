"""Fused LoRA products for training, with few temporaries.

PEFT computes `base(x) + up(down(dropout(x))) * scaling` operation by operation. On a CPU, drawing
the dropout alone takes as long as the base product, and every operation keeps or copies a tensor of
the layer's size. Here, layers that read the same input (queries, keys and values; gate and up) are
one autograd function with an explicit derivative (Hu et al., arXiv 2106.09685, eq. 3).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import psutil
import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


class FusedLora:
    """A context in which a PEFT model computes its plain LoRA layers fused.

    Other layers (quantized, DoRA, with a LoRA bias) are unchanged. The result equals that of PEFT
    within rounding. Dropout has the same distribution as in PEFT, except that layers which read the
    same input share one draw.

    Args:
        model: PEFT model. Other models are unchanged.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = [module for module in model.modules() if is_plain_lora(module)]
        self._noise = _Noise()
        groups = list(same_input(model, layers))
        wide = _affords_copies([layer.base_layer.weight for layer in layers])
        self._groups = [_Group(group, self._noise, wide=wide) for group in groups]

    def __enter__(self) -> FusedLora:
        self._noise.renew()
        for group in self._groups:
            group.attach()
        return self

    def __exit__(self, *_: object) -> None:
        for group in self._groups:
            group.detach()


def is_plain_lora(module: nn.Module) -> TypeGuard[Any]:
    """Return whether a layer is a PEFT LoRA layer that adds exactly one low-rank product."""
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


def _affords_copies(weights: Sequence[Tensor]) -> bool:
    """Return whether copies of half-precision weights fit in a quarter of the free memory."""
    if not weights or any(w.dtype not in (torch.bfloat16, torch.float16) for w in weights):
        return False
    if weights[0].is_cuda:
        free = torch.cuda.mem_get_info(weights[0].device)[0]
    else:
        free = psutil.virtual_memory().available
    return sum(weight.nbytes for weight in weights) < free / 4


class _Noise:
    """Pool of dropout masks: drawn once per step, and read at a random offset by each product.

    Seeds and offsets come from torch's random generator, so that a run resumed from a checkpoint
    draws the same masks. Torch itself draws dropout number by number, which takes longer than the
    product to which it is applied.
    """

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Discard the pool, so that the next call of `kept` draws a new one."""
        self._seed = int(torch.randint(2**62, ()))
        self._kept = torch.empty(0)

    def kept(self, like: Tensor, probability: float) -> Tensor:
        """Return a mask with the shape and dtype of `like`: 1 for kept elements, 0 for dropped.

        The same state of torch's generator gives the same mask, which the recomputation of
        checkpointed layers relies on. A pool that grows starts with the values of the smaller one.
        """
        count = like.numel()
        if self._kept.numel() < 2 * count:
            generator = np.random.Generator(np.random.SFC64(self._seed))
            numbers = generator.integers(0, 2**16, 2 * count, dtype=np.uint16)
            self._kept = torch.from_numpy(numbers >= round(probability * 2**16)).to(like)
        start = int(torch.randint(count, ()))
        return self._kept[start : start + count].view_as(like)


class SharedInput(ABC):
    """Layers of a model that read the same input; the first one called computes all outputs."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers
        self._input: Tensor | None = None
        self._waiting: dict[int, Tensor] = {}

    @abstractmethod
    def compute(self, x: Tensor) -> Sequence[Tensor]:
        """Return the output of each layer."""

    def attach(self) -> None:
        """Replace the forward of the layers."""
        for number, layer in enumerate(self.layers):
            layer.forward = lambda x, number=number: self._forward(number, x)

    def detach(self) -> None:
        """Restore the forward of the layers."""
        self._input, self._waiting = None, {}
        for layer in self.layers:
            del layer.forward

    def _forward(self, number: int, x: Tensor) -> Tensor:
        if x is not self._input or number not in self._waiting:
            self._input, self._waiting = x, dict(enumerate(self.compute(x)))
        result = self._waiting.pop(number)
        if not self._waiting:
            self._input = None
        return result


class _Group(SharedInput):
    """LoRA layers of PEFT that read the same input.

    With `wide`, a copy of the weights is kept, extended by the second factors.
    """

    def __init__(self, layers: list[Any], noise: _Noise, *, wide: bool) -> None:
        super().__init__(layers)
        self._noise = noise
        self._name = layers[0].active_adapters[0]
        dropout = layers[0].lora_dropout[self._name]
        self._probability = float(getattr(dropout, "p", 0.0))
        self._ups = [layer.lora_B[self._name].weight for layer in layers]
        self._scales = [layer.scaling[self._name] for layer in layers]
        self._weights = [layer.base_layer.weight for layer in layers]
        self._wide = AugmentedWeights(self._weights, self._ups) if wide else None

    def attach(self) -> None:
        if self._wide is not None:
            self._wide.renew(self._ups, self._scales)
        super().attach()

    def compute(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x.to(self._weights[0].dtype)
        drops = self._probability > 0 and self.layers[0].training
        kept = self._noise.kept(x, self._probability) if drops else None
        products = _LoraProducts if self._wide is None else _WideProducts
        return products.apply(  # type: ignore[no-untyped-call, no-any-return]
            x,
            kept,
            1 / (1 - self._probability) if drops else 1.0,
            self._scales,
            *(self._weights if self._wide is None else self._wide.weights),
            *(layer.base_layer.bias for layer in self.layers),
            *(layer.lora_A[self._name].weight for layer in self.layers),
            *self._ups,
        )


class AugmentedWeights:
    """Weights extended by LoRA's second factors: one product instead of two, rounded once.

    In bf16 a small addition to an already rounded product is lost, as at the start of training.

    Attributes:
        weights: Weight of each layer, (out, in + ranks of all layers): W, and s B in the columns of
            the layer's own rank.
    """

    def __init__(self, weights: Sequence[Tensor], ups: Sequence[Tensor]) -> None:
        ranks = [up.shape[1] for up in ups]
        self.weights = [functional.pad(weight, (0, sum(ranks))) for weight in weights]
        starts = [weights[0].shape[1] + sum(ranks[:i]) for i in range(len(ranks))]
        self._places = [slice(at, at + rank) for at, rank in zip(starts, ranks, strict=True)]

    @torch.no_grad()
    def renew(self, ups: Sequence[Tensor], scales: Sequence[float]) -> None:
        """Copy the current second factors into the weights, e.g. after an optimizer step."""
        for weight, place, up, scale in zip(self.weights, self._places, ups, scales, strict=True):
            weight[:, place] = up * scale


class _LoraProducts(Function):
    """y_i = W_i x + b_i + s_i B_i A_i (k ∘ x) of several layers i; W and b are frozen.

    Shapes: x and k (..., in), W_i (out_i, in), A_i (rank_i, in), B_i (out_i, rank_i); returns a
    tuple of (..., out_i).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kept: Tensor | None,
        share: float,
        scales: list[float],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        n = len(scales)
        weights, biases, downs, ups = (tensors[i * n : (i + 1) * n] for i in range(4))
        rows = x.reshape(-1, x.shape[-1])
        read = rows if kept is None else rows * kept.view_as(rows)
        down = torch.cat(downs).mul_(share).to(rows.dtype)
        ranks = [len(d) for d in downs]
        hidden = read @ down.t()
        outputs = []
        for weight, bias, up, scale, h in zip(
            weights, biases, ups, scales, hidden.split_with_sizes(ranks, 1), strict=True
        ):
            y = functional.linear(rows, weight, bias)
            y.addmm_(h, up.to(rows.dtype).t(), alpha=scale)
            outputs.append(y.view(*x.shape[:-1], -1))
        # `read` is recomputed in backward, which is cheaper than keeping it.
        ctx.save_for_backward(rows, kept, hidden, down, *weights, *ups)
        ctx.share, ctx.scales, ctx.ranks, ctx.shape = share, scales, ranks, x.shape
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
        down_gradients = (
            (d_hidden.t() @ read).mul_(ctx.share).to(ups[0].dtype).split_with_sizes(ctx.ranks)
        )
        dx = None
        if ctx.needs_input_grad[0]:
            dx = d_hidden @ down
            if kept is not None:
                dx *= kept.view_as(rows)
            for g, weight in zip(flat, weights, strict=True):
                dx.addmm_(g, weight)
            dx = dx.view(ctx.shape)
        frozen = (None,) * (2 * n)
        return (dx, None, None, None, *frozen, *down_gradients, *up_gradients)


class _WideProducts(Function):
    """The same products from the weights of `AugmentedWeights`: [x, A (k ∘ x)] [W, s B]^T."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kept: Tensor | None,
        share: float,
        scales: list[float],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        n = len(scales)
        wides, biases, downs, ups = (tensors[i * n : (i + 1) * n] for i in range(4))
        rows = x.reshape(-1, x.shape[-1])
        read = rows if kept is None else rows * kept.view_as(rows)
        down = torch.cat(downs).mul_(share).to(rows.dtype)
        both = torch.cat([rows, read @ down.t()], 1)
        ctx.save_for_backward(both, kept, down, *wides)
        ctx.share, ctx.scales, ctx.ranks, ctx.shape = (
            share,
            scales,
            [len(d) for d in downs],
            x.shape,
        )
        ctx.dtype = ups[0].dtype
        return tuple(
            functional.linear(both, wide, bias).view(*x.shape[:-1], -1)
            for wide, bias in zip(wides, biases, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        n, width = len(ctx.scales), ctx.shape[-1]
        both, kept, down, *wides = ctx.saved_tensors
        flat = [g.reshape(-1, g.shape[-1]) for g in gradients]
        # Gradients of the input and of the hidden values in one product.
        below = flat[0] @ wides[0]
        for g, wide in zip(flat[1:], wides[1:], strict=True):
            below.addmm_(g, wide)
        rows, hidden = both[:, :width], both[:, width:].contiguous()
        up_gradients = [
            (g.t() @ h).mul_(scale).to(ctx.dtype)
            for g, scale, h in zip(
                flat, ctx.scales, hidden.split_with_sizes(ctx.ranks, 1), strict=True
            )
        ]
        d_hidden = below[:, width:].contiguous()
        read = rows if kept is None else rows * kept.view_as(rows)
        down_gradients = (
            (d_hidden.t() @ read).mul_(ctx.share).to(ctx.dtype).split_with_sizes(ctx.ranks)
        )
        dx = None
        if ctx.needs_input_grad[0]:
            dx = below[:, :width]
            if kept is None:
                dx = torch.addmm(dx, d_hidden, down)
            else:
                dx = (d_hidden @ down).mul_(kept.view_as(rows)).add_(dx)
            dx = dx.view(ctx.shape)
        frozen = (None,) * (2 * n)
        return (dx, None, None, None, *frozen, *down_gradients, *up_gradients)


def same_input(model: nn.Module, layers: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield groups of layers that read the same tensor, in the order of computation.

    The groups are found in a pass over two tokens. Layers that it does not reach are not included.
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
    times = Counter(layer for layer, _ in seen)
    # A layer that is called again with another input gets its own group.
    yield from ([layer] for layer, count in times.items() if count > 1)
    group: list[Any] = []
    shared: Tensor | None = None
    for layer, tensor in seen:
        if times[layer] > 1:
            continue
        if group and tensor is not shared:
            yield group
            group = []
        group.append(layer)
        shared = tensor
    if group:
        yield group
