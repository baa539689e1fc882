"""The sizes computed from a configuration are those of the model that it builds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from telltune.models import context_length, model_shape

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", SMALL),
    "heads of a width of their own": ("LlamaConfig", {**SMALL, "head_dim": 16}),
    "Gemma": ("GemmaConfig", {**SMALL, "head_dim": 8}),
    # Without the width of the MLP and the heads of keys, and with other names.
    "GPT-2": (
        "GPT2Config",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128},
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_sizes_are_those_of_the_model(kind: str) -> None:
    name, values = CONFIGS[kind]
    config = getattr(transformers, name)(**values)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    shape = model_shape(config)
    # A product has a matrix; norms and biases are vectors.
    matrices = {name: p for name, p in model.named_parameters() if p.dim() == 2}
    assert shape.layer_weights == sum(p.numel() for n, p in matrices.items() if ".0." in n) * 3
    assert [*model.get_input_embeddings().weight.shape] == [shape.vocabulary, shape.hidden]
    widest = max(max(p.shape) for name, p in matrices.items() if ".0.mlp." in name)
    assert (shape.layers, shape.mlp_width, shape.context_length) == (3, widest, 128)
    assert shape.model_type == config.model_type


def test_sizes_by_name_are_whole_numbers_and_no_ids_of_tokens() -> None:
    config = transformers.LlamaConfig(**SMALL, bos_token_id=7, rms_norm_eps=1e-3)
    assert model_shape(config).sizes.items() >= SMALL.items()
    assert not {"bos_token_id", "rms_norm_eps", "use_cache"} & set(model_shape(config).sizes)


def test_a_model_without_attention_has_a_shape() -> None:
    shape = model_shape(transformers.MambaConfig(hidden_size=32, num_hidden_layers=2))
    assert shape.layer_weights > 0


def test_sizes_that_differ_by_layer_count_as_their_mean() -> None:
    lists = {"intermediate_size": [32, 48, 64], "num_key_value_heads": [1, 2, 3]}
    same = model_shape(transformers.PretrainedConfig(**SMALL))
    differing = model_shape(transformers.PretrainedConfig(**SMALL | lists))
    assert (differing.mlp_width, differing.layer_weights) == (48, same.layer_weights)
    gemma = transformers.Gemma3nTextConfig(num_hidden_layers=3, intermediate_size=[32, 48, 64])
    assert model_shape(gemma).mlp_width == 48


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # Of a vision-language model, the text model has the limit.
        ("Gemma3Config", {"text_config": {"max_position_embeddings": 512}}),
        ("GPT2Config", {"n_positions": 512}),
        ("MptConfig", {"max_seq_len": 512}),
        # Names in configurations with custom code.
        ("BloomConfig", {"seq_length": 512}),
        ("BloomConfig", {"model_max_length": 512}),
        ("XLNetConfig", {"seq_length": 512}),
    ],
)
def test_context_length_is_read_under_each_of_its_names(name: str, values: dict[str, Any]) -> None:
    config = getattr(transformers, name)(**values)
    assert context_length(config) == context_length(config, 64) == 512


@pytest.mark.parametrize("name", ["MambaConfig", "Mamba2Config", "BloomConfig", "XLNetConfig"])
def test_a_model_without_a_context_length_reads_any_length(name: str) -> None:
    config = getattr(transformers, name)()
    assert context_length(config) > 10**9
    assert context_length(config, 64) == 64
