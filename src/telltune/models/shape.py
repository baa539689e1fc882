"""The sizes of a model: all that its work and memory are forecast from, without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["ModelShape", "context_length", "model_shape"]


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a causal language model.

    Attributes:
        model_type: The architecture, as transformers calls it.
        context_length: The longest sequence that the model was made for, in tokens.
        layers: How many.
        hidden: Numbers in the state of a token.
        mlp_width: Of the hidden layer in each MLP.
        vocabulary: Tokens that there are.
        layer_weights: Weights of all layers, embeddings not counted.
        sizes: Each whole number that the configuration has, by name; ids of tokens are left out.
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
    """The sizes in a configuration of transformers."""
    text = config.get_text_config()
    layers, hidden = text.num_hidden_layers, text.hidden_size
    # Without attention (Mamba), what mixes positions is taken to be as large as one head of all.
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
        # Whole numbers are what a size is; ids of tokens are some too, and say nothing of work.
        sizes={
            key: value
            for key, value in sorted(text.to_dict().items())
            if type(value) is int and not key.endswith("token_id")
        },
    )


def context_length(config: Any) -> int:
    """The longest sequence that the model was made for, in tokens."""
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx"):
        length = getattr(config, name, None)
        if isinstance(length, int):
            return length
    return 2048
