"""Sizes of a model, from which its work and memory are forecast without loading weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["ModelShape", "context_length", "model_shape"]


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a causal language model.

    Attributes:
        model_type: Name of the architecture in transformers.
        context_length: Longest sequence that the model was made for, in tokens.
        layers: Number of layers.
        hidden: Hidden size.
        mlp_width: Width of the hidden layer in each MLP.
        vocabulary: Vocabulary size.
        layer_weights: Number of weights in all layers, without embeddings.
        sizes: All integers in the configuration by name, except token ids.
    """

    model_type: str
    context_length: int
    layers: int
    hidden: int
    mlp_width: int
    vocabulary: int
    layer_weights: int
    sizes: dict[str, int]


def model_shape(config: Any) -> ModelShape:
    """Return the sizes in a transformers configuration."""
    text = config.get_text_config()
    layers, hidden = text.num_hidden_layers, text.hidden_size
    # Without attention (Mamba), the mixer is assumed to be as large as one full-width head.
    heads = getattr(text, "num_attention_heads", None) or 1
    width = getattr(text, "head_dim", None) or hidden // heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    attention = hidden * width * (2 * heads + 2 * key_heads)
    mlp_width = getattr(text, "intermediate_size", None) or 4 * hidden
    gated = getattr(text, "hidden_act", "") in ("silu", "swish", "gelu_pytorch_tanh")
    return ModelShape(
        model_type=config.model_type,
        context_length=context_length(config),
        layers=layers,
        hidden=hidden,
        mlp_width=mlp_width,
        vocabulary=text.vocab_size,
        layer_weights=layers * (attention + (3 if gated else 2) * hidden * mlp_width),
        # Token ids are integers too, but they are not sizes.
        sizes={
            key: value
            for key, value in sorted(text.to_dict().items())
            if type(value) is int and not key.endswith("token_id")
        },
    )


def context_length(config: Any) -> int:
    """Return the longest sequence that the model was made for, in tokens."""
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx"):
        length = getattr(config, name, None)
        if isinstance(length, int):
            return length
    return 2048
