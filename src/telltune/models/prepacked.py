"""Weights laid out once as oneDNN's kernels read them, for generation on a CPU.

With a few rows of input the plain product spends most of its time in laying out weights, again at
every token. At 576 x 1536, packed weights were measured to be 1.5 times as quick for 1 row, 1.7
for 8, 1.3 for 16, and equal from 64 on (two Zen 3 cores, fp32); 1.8 for 1 row, 1.4 for 8 and 16,
1.1 for 64 (two Zen 5 cores, bf16). See docs/performance.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import nn

from telltune.models.loading import native_bf16
from telltune.models.lora import FusedLora, is_plain_lora

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

__all__ = ["Prepacked"]

# The layout depends on how many rows it is told to expect; this one was good for 1 to 1,024.
_ROWS = 32


class Prepacked:
    """A context in which a model's linear layers compute from packed copies of their weights.

    Plain LoRA layers are merged into the copy, so an adapter costs nothing; in bf16, where a merged
    weight would be rounded, its second factor stands beside it. The model's own weights stay as
    they are. The copies are made when the context is first entered, and take as much memory as the
    layers' weights. On a GPU, without oneDNN, or with too little memory for the copies, LoRA layers
    compute as in training.

    Args:
        model: Its weights must not change afterwards.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._packed: dict[nn.Module, Any] | None = None
        self._unpacked: FusedLora | None = None

    def __enter__(self) -> Prepacked:
        if self._packed is None:
            self._packed = _pack_all(self.model)
            if not self._packed:
                self._unpacked = FusedLora(self.model)
        for layer, forward in self._packed.items():
            layer.forward = forward
        if self._unpacked is not None:
            self._unpacked.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for layer in self._packed or {}:
            del layer.forward
        if self._unpacked is not None:
            self._unpacked.__exit__(*error)


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
    dtypes = {weight.dtype for weight in weights}
    return all(weight.device.type == "cpu" for weight in weights) and (
        dtypes == {torch.float32} or (dtypes == {torch.bfloat16} and native_bf16())
    )


def _forward(layer: Any, weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    down: Tensor | None = None
    with torch.no_grad():
        if is_plain_lora(layer):
            name = layer.active_adapters[0]
            if weight.dtype == torch.float32:
                # As PEFT merges, but into a copy.
                weight = weight + layer.get_delta_weight(name)
            else:
                up = layer.lora_B[name].weight * layer.scaling[name]
                weight = torch.cat([weight, up.to(weight.dtype)], 1)
                down = layer.lora_A[name].weight.to(weight.dtype).t()
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)

    def forward(x: Tensor) -> Tensor:
        if down is not None:
            x = torch.cat([x, x @ down], -1)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
        return product

    return forward
