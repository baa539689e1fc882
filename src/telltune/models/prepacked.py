"""Weights laid out once as oneDNN's kernels read them, for generation on a CPU.

With a few rows of input the plain product spends most of its time in laying out weights, again at
every token. Measured on two Zen 3 cores at 576 x 1536, fp32: packed weights are 1.5 times as quick
for 1 row, 1.7 for 8, 1.3 for 16, and equal from 64 on (docs/performance.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import nn

from telltune.models.lora import is_plain_lora

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

__all__ = ["Prepacked"]

# The layout depends on how many rows it is told to expect; this one was good for 1 to 1,024.
_ROWS = 32


class Prepacked:
    """A context in which a model's linear layers compute from packed copies of their weights.

    Plain LoRA layers are merged into the copy, so an adapter costs nothing; the model's own weights
    stay as they are. The copies are made when the context is first entered, and take as much memory
    as the layers' weights. On a GPU, without oneDNN, or with too little memory for the copies,
    the model computes as it is.

    Args:
        model: Its weights must not change afterwards.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._packed: dict[nn.Module, Any] | None = None

    def __enter__(self) -> Prepacked:
        if self._packed is None:
            self._packed = _pack_all(self.model)
        for layer, forward in self._packed.items():
            layer.forward = forward
        return self

    def __exit__(self, *_: object) -> None:
        for layer in self._packed or {}:
            del layer.forward


def _pack_all(model: nn.Module) -> dict[nn.Module, Any]:
    """The forward of each layer that is packed."""
    layers = dict(_linear_layers(model))
    weights = [weight for weight, _ in layers.values()]
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    if not _can_pack(weights) or size > psutil.virtual_memory().available / 2:
        return {}
    return {layer: _forward(layer, weight, bias) for layer, (weight, bias) in layers.items()}


def _linear_layers(module: nn.Module) -> Iterator[tuple[nn.Module, tuple[Tensor, Tensor | None]]]:
    """Every linear layer that computes with nothing around it, its weight and its bias."""
    if is_plain_lora(module):
        yield module, (module.base_layer.weight, module.base_layer.bias)
    elif type(module) is nn.Linear:
        yield module, (module.weight, module.bias)
    else:
        for child in module.children():
            yield from _linear_layers(child)


def _can_pack(weights: list[Tensor]) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return all(weight.device.type == "cpu" and weight.dtype == torch.float32 for weight in weights)


def _forward(layer: Any, weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    with torch.no_grad():
        if is_plain_lora(layer):
            # As PEFT merges, but into a copy.
            weight = weight + layer.get_delta_weight(layer.active_adapters[0])
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)

    def forward(x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
        return product

    return forward
