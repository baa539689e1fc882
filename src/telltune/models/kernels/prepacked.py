"""Weights packed once in the layout of oneDNN's kernels, for generation on a CPU.

With a few rows of input the plain product spends most of its time on laying out weights, again for
every token. At 576 x 1536, packed weights were 1.5 times as fast for 1 row, 1.7 for 8, 1.3 for 16,
and equal from 64 on (two Zen 3 cores, fp32); 1.8 for 1 row, 1.4 for 8 and 16, 1.1 for 64 (two Zen
5 cores, bf16). See docs/research/performance.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import nn

from telltune.models.kernels.decoder_layers import FusedLayers
from telltune.models.kernels.lora import (
    AugmentedWeights,
    FusedLora,
    SharedInput,
    is_plain_lora,
    same_input,
)
from telltune.models.kernels.norms import FusedRMSNorm
from telltune.models.loading import native_bf16

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

# The layout depends on the expected number of rows. This value was good for 1 to 1,024 rows.
_ROWS = 32


class Prepacked:
    """A context in which a model's linear layers compute from packed copies of their weights.

    Layers that read the same input are one product. Plain LoRA layers are merged into the copy, so
    an adapter adds no cost. In bf16, where a merged weight would be rounded, the copy is extended
    by the second factor instead. The model's own weights are unchanged. The copies are made when
    the context is first entered, and take as much memory as the layers' weights. On a GPU, without
    oneDNN, or with too little memory for the copies, LoRA layers compute as in training.

    Args:
        model: Model whose weights must not change afterwards.
        quick: Whether its decoder layers may use `FusedLayers`.
    """

    def __init__(self, model: nn.Module, *, quick: bool = False) -> None:
        self.model = model
        self.quick = quick
        self._products: list[_Product] | None = None
        self._others: list[Any] = []

    def __enter__(self) -> Prepacked:
        if self._products is None:
            self._prepare()
        for product in self._products or ():
            product.attach()
        for other in self._others:
            other.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for other in self._others:
            other.__exit__(*error)
        for product in self._products or ():
            product.detach()

    def _prepare(self) -> None:
        self._products = list(_pack_all(self.model))
        if not self._products:
            self._others = [FusedLora(self.model)]
            return
        self._others = [FusedRMSNorm(self.model)]
        if self.quick:
            known = {tuple(product.layers): product for product in self._products}
            self._others.append(FusedLayers(self.model, lambda *layers: known.get(layers)))


class _Product(SharedInput):
    """The packed weights of layers that read the same input, in the order of computation."""

    @torch.no_grad()
    def __init__(self, layers: list[Any]) -> None:
        super().__init__(layers)
        pairs = [_weight_and_bias(layer) for layer in layers]
        weights = [weight.detach() for weight, _ in pairs]
        self._down: Tensor | None = None
        if any(map(is_plain_lora, layers)):
            weights = self._with_adapters(layers, weights)
        biases = [bias for _, bias in pairs]
        self._bias = None
        if any(bias is not None for bias in biases):
            self._bias = torch.cat(
                [
                    weight.new_zeros(len(weight)) if bias is None else bias.detach()
                    for weight, bias in zip(weights, biases, strict=True)
                ]
            )
        self._sizes = [len(weight) for weight in weights]
        self._packed = torch.ops.mkldnn._reorder_linear_weight(torch.cat(weights), _ROWS)

    def compute(self, x: Tensor) -> tuple[Tensor, ...]:
        return self(x).split_with_sizes(self._sizes, -1)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the concatenated outputs of all layers: (..., in) → (..., out of all)."""
        if self._down is not None:
            x = torch.cat([x, x @ self._down], -1)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self._bias, "none", [], ""
        )
        return product

    def _with_adapters(self, layers: list[Any], weights: list[Tensor]) -> list[Tensor]:
        names = [layer.active_adapters[0] if is_plain_lora(layer) else None for layer in layers]
        if weights[0].dtype == torch.float32:
            # Merge as PEFT does, but into a copy.
            return [
                weight if name is None else weight + layer.get_delta_weight(name)
                for layer, name, weight in zip(layers, names, weights, strict=True)
            ]
        downs, ups, scales = [], [], []
        for layer, name, weight in zip(layers, names, weights, strict=True):
            if name is not None:
                downs.append(layer.lora_A[name].weight)
            ups.append(
                weight.new_zeros(len(weight), 0) if name is None else layer.lora_B[name].weight
            )
            scales.append(1.0 if name is None else layer.scaling[name])
        wide = AugmentedWeights(weights, ups)
        wide.renew(ups, scales)
        self._down = torch.cat(downs).to(weights[0].dtype).t()
        return wide.weights


def _pack_all(model: nn.Module) -> Iterator[_Product]:
    layers = list(_linear_layers(model))
    weights = [_weight_and_bias(layer)[0] for layer in layers]
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    if _can_pack(weights) and size <= psutil.virtual_memory().available / 2:
        for group in same_input(model, layers):
            yield _Product(group)


def _linear_layers(module: nn.Module) -> Iterator[nn.Module]:
    """Yield every plain linear layer, with or without plain LoRA."""
    if is_plain_lora(module) or type(module) is nn.Linear:
        yield module
    else:
        for child in module.children():
            yield from _linear_layers(child)


def _weight_and_bias(layer: Any) -> tuple[Tensor, Tensor | None]:
    own = layer.base_layer if is_plain_lora(layer) else layer
    return own.weight, own.bias


def _can_pack(weights: Sequence[Tensor]) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    dtypes = {weight.dtype for weight in weights}
    return all(weight.device.type == "cpu" for weight in weights) and (
        dtypes == {torch.float32} or (dtypes == {torch.bfloat16} and native_bf16())
    )
