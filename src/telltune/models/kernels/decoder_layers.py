"""Decoder layers of common architectures with few operations, for passes over a few tokens.

A pass over one token reads every weight once; the rest of its time is Python overhead. In
transformers a layer is a dozen modules and about sixty operations. Here it is about twenty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    Product = Callable[[Tensor], Tensor]

__all__ = ["FusedLayers"]

# Maximum number of tokens in a pass. With more, operations take longer than their overhead.
_FEW = 16

_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


class FusedLayers:
    """A context in which a model computes its decoder layers with few operations.

    It supports the layers of Llama, Mistral and Qwen2: attention with rotated halves and a gated
    MLP, each preceded by a norm. Other layers are unchanged. Callers must test beforehand that a
    layer of the same structure also computes the same. The context applies only to generation into
    `KeyValues`.

    Args:
        model: Any model.
        product: Function from layers with the same input to a product that returns their
            concatenated outputs, or to None.
    """

    def __init__(self, model: nn.Module, product: Callable[..., Product | None]) -> None:
        self._layers: list[tuple[Any, Callable[..., Any]]] = []
        rotation = _Rotation()
        module: Any
        for module in model.modules():
            if not _is_usual(module):
                continue
            attention, mlp = module.self_attn, module.mlp
            products = (
                product(attention.q_proj, attention.k_proj, attention.v_proj),
                product(attention.o_proj),
                product(mlp.gate_proj, mlp.up_proj),
                product(mlp.down_proj),
            )
            if all(products):
                self._layers.append((module, _quick(module, rotation, *products)))  # type: ignore[arg-type]

    def __enter__(self) -> FusedLayers:
        for layer, forward in self._layers:
            layer.forward = forward
        return self

    def __exit__(self, *_: object) -> None:
        for layer, _forward in self._layers:
            del layer.forward


def _is_usual(module: Any) -> bool:
    return (
        _names(module) == _PARTS
        and _names(module.self_attn) == _ATTENTION
        and _names(module.mlp) == _MLP
        and hasattr(module.self_attn, "head_dim")
        and hasattr(module.self_attn, "scaling")
    )


def _names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


class _Rotation:
    """Rotary position embedding (arXiv 2104.09864, eq. 34) in three operations."""

    def __init__(self) -> None:
        self._sine: Tensor | None = None
        self._signed = torch.empty(0)

    def __call__(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Rotate (tokens, heads, width) by angles (1, tokens, width)."""
        half = x.shape[-1] // 2
        # All layers of a pass rotate by the same angles.
        if sine is not self._sine:
            self._sine = sine
            self._signed = torch.cat([-sine[0, :, :half], sine[0, :, half:]], -1)[:, None]
        return torch.addcmul(x * cosine[0, :, None], x.roll(half, -1), self._signed)


def _quick(
    layer: Any,
    rotation: _Rotation,
    queries_keys_values: Product,
    output: Product,
    gate_up: Product,
    down: Product,
) -> Callable[..., Any]:
    own = layer.forward
    attention, act = layer.self_attn, layer.mlp.act_fn
    width = attention.head_dim
    key_heads = attention.k_proj.out_features // width
    heads = attention.q_proj.out_features // width

    def forward(
        hidden_states: Tensor,
        *args: Any,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        key_values: Any = None,
        **kwargs: Any,
    ) -> Any:
        if key_values is None or position_embeddings is None or hidden_states.shape[1] > _FEW:
            return own(
                hidden_states,
                *args,
                position_embeddings=position_embeddings,
                key_values=key_values,
                **kwargs,
            )
        x = hidden_states[0]
        every = queries_keys_values(layer.input_layernorm(x)).view(len(x), -1, width)
        rotated = rotation(every[:, : heads + key_heads], *position_embeddings)
        query, key, value = (
            part.transpose(0, 1)[None]
            for part in (rotated[:, :heads], rotated[:, heads:], every[:, heads + key_heads :])
        )
        attended = key_values.attend(attention.layer_idx, query, key, value, attention.scaling)
        x = x + output(attended.reshape(len(x), -1))
        gate, up = gate_up(layer.post_attention_layernorm(x)).chunk(2, -1)
        return (x + down(act(gate) * up))[None]

    return forward
