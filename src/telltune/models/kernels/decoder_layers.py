"""Decoder layers of common architectures with few operations, for passes over a few tokens.

A pass over one token reads every weight once; the rest of its time is Python overhead. In
transformers a layer is a dozen modules and about sixty operations. Here it is about twenty.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    Product = Callable[[Tensor], Tensor]

# Maximum number of tokens in a pass. With more, operations take longer than their overhead.
_FEW = 16

_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
# Gemma also has a norm after attention and one after the MLP.
_SANDWICH = {"pre_feedforward_layernorm", "post_feedforward_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


class FusedLayers:
    """A context in which a model computes its decoder layers with few operations.

    It supports attention with rotated halves and a gated MLP, each preceded by a norm, as in Llama,
    Mistral and Qwen2. Norms of queries and keys (Qwen3), norms after attention and MLP (Gemma 2
    and 3) and a factor of what is added (Granite) are supported too. Other layers are unchanged.
    Callers must test beforehand that a layer of the same structure also computes the same. The
    context applies only to generation into `KeyValues`, after a pass of the layer itself, which
    tells its kind of attention.

    Args:
        model: Any model.
        product: Function from layers with the same input to a product that returns their
            concatenated outputs, or to None.
    """

    def __init__(self, model: nn.Module, product: Callable[..., Product | None]) -> None:
        self._layers: list[tuple[Any, Callable[..., Any]]] = []
        # Layers of one type rotate by the same angles.
        rotations: dict[object, _Rotation] = defaultdict(_Rotation)
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
                rotation = rotations[getattr(attention, "layer_type", None)]
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
        _names(module) in (_PARTS, _PARTS | _SANDWICH)
        and _names(module.self_attn) in (_ATTENTION, _ATTENTION | _HEAD_NORMS)
        and _names(module.mlp) == _MLP
        and hasattr(module.self_attn, "head_dim")
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
        # All layers of a type rotate by the same angles in a pass.
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
    sandwich = hasattr(layer, "pre_feedforward_layernorm")
    before_mlp = layer.pre_feedforward_layernorm if sandwich else layer.post_attention_layernorm
    head_norms = hasattr(attention, "q_norm")
    share = getattr(layer, "residual_multiplier", 1.0)
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
        kind = None if key_values is None else key_values.kinds.get(attention.layer_idx)
        if kind is None or position_embeddings is None or hidden_states.shape[1] > _FEW:
            return own(
                hidden_states,
                *args,
                position_embeddings=position_embeddings,
                key_values=key_values,
                **kwargs,
            )
        x = hidden_states[0]
        every = queries_keys_values(layer.input_layernorm(x)).view(len(x), -1, width)
        asking = every[:, : heads + key_heads]
        if head_norms:
            asking = torch.cat(
                [attention.q_norm(asking[:, :heads]), attention.k_norm(asking[:, heads:])], 1
            )
        rotated = rotation(asking, *position_embeddings)
        query, key, value = (
            part.transpose(0, 1)[None]
            for part in (rotated[:, :heads], rotated[:, heads:], every[:, heads + key_heads :])
        )
        attended = key_values.attend(attention.layer_idx, query, key, value, kind)
        added = output(attended.reshape(len(x), -1))
        if sandwich:
            added = layer.post_attention_layernorm(added)
        x = torch.add(x, added, alpha=share)
        gate, up = gate_up(before_mlp(x)).chunk(2, -1)
        added = down(act(gate) * up)
        if sandwich:
            added = layer.post_feedforward_layernorm(added)
        return torch.add(x, added, alpha=share)[None]

    return forward
