"""Adapters go on layers that exist and that LoRA can adapt; others are named at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from telltune.errors import RecipeError
from telltune.models import adapter_targets, layers_left_out, layers_of, load_base, named_layers
from telltune.recipe import LoraSpec, ModelSpec
from telltune.training.adapter import add_lora

if TYPE_CHECKING:
    from pathlib import Path

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
SSM = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
MIXER = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}
# By architecture: its sizes, and the layers that `all-linear` must exclude.
ARCHITECTURES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "llama": (SIZES, set()),
    "gpt2": ({"n_embd": 32, "n_layer": 2, "n_head": 2}, set()),
    # It also reads weights directly, if it imitates tensor parallelism; it has no state.
    "bloom": ({"hidden_size": 32, "n_layer": 2, "n_head": 2}, set()),
    "mamba": (SSM, {"x_proj", "dt_proj", "out_proj"}),
    "falcon_mamba": (SSM, {"x_proj", "dt_proj", "out_proj"}),
    "mamba2": (
        SSM | {"head_dim": 16, "num_heads": 4, "n_groups": 1, "chunk_size": 16},
        {"out_proj"},
    ),
    "falcon_h1": (SIZES | MIXER | {"mamba_d_ssm": 64, "head_dim": 16}, {"out_proj"}),
    "nemotron_h": (
        SIZES
        | {"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1}
        | {"chunk_size": 16, "head_dim": 16, "layers_block_type": ["mamba", "attention"]},
        {"out_proj"},
    ),
    "bamba": (SIZES | MIXER | {"attn_layer_indices": [1]}, {"out_proj"}),
    "jamba": (
        SIZES
        | {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1}
        | {"expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 2}
        | {"num_experts_per_tok": 1, "mamba_d_state": 4, "mamba_dt_rank": 4},
        {"dt_proj"},
    ),
    "mixtral": (SIZES | {"num_local_experts": 2, "num_experts_per_tok": 1}, set()),
    "deepseek_v3": (
        SIZES
        | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2}
        | {"moe_intermediate_size": 16, "first_k_dense_replace": 1, "q_lora_rank": 8}
        | {"kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
        {"gate_proj", "up_proj", "down_proj"},
    ),
}


def tiny(kind: str) -> Any:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](vocab_size=64, pad_token_id=0, **ARCHITECTURES[kind][0])
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_all_linear_adapts_what_it_can_with_default_settings(kind: str) -> None:
    model = tiny(kind)
    layers = named_layers(model)
    left = {name.rpartition(".")[2] for name in (*layers.read_directly, *layers.like_experts)}
    assert left == ARCHITECTURES[kind][1]
    told = layers_left_out(layers, "all-linear")
    assert (told is None) == (not left and not layers.fused_experts)
    assert all(f"`{name}`" in str(told) for name in left)

    base = type("Base", (), {"model": model})()
    adapted = add_lora(base, LoraSpec(rank=2), seed=0)
    adapted(input_ids=torch.arange(3, 20)[None], labels=torch.arange(3, 20)[None]).loss.backward()
    found = {n for n, p in adapted.named_parameters() if p.requires_grad and "lora_B" in n}
    assert {n.split(".lora_B")[0].removeprefix("base_model.model.") for n in found} == {
        *layers.linear
    }
    # Every adapted layer is used.
    dead = [n for n, p in adapted.named_parameters() if n in found and not p.grad.any()]
    assert dead == []


def test_layers_are_known_without_weights(tiny_model: Path) -> None:
    spec = ModelSpec(name=str(tiny_model))
    assert layers_of(spec) == named_layers(load_base(spec, "fp32").model)


def test_a_model_that_cannot_be_built_without_weights_is_looked_at_later(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("meta tensors")

    monkeypatch.setattr(AutoModelForCausalLM, "from_config", refuse)
    assert layers_of(ModelSpec(name=str(tiny_model))) is None


REFUSED: dict[str, tuple[str | list[str], str]] = {
    "one misspelt among several": (
        ["q_proj", "v_porj"],
        r"`v_porj` \(did you mean `v_proj`\?\) names no .*; the linear layers are `down_proj`, ",
    ),
    "two misspelt": (["qq_proj", "xyz"], r"`qq_proj` \(did you mean .*\) and `xyz` name no layer"),
    "another architecture's": (["c_attn"], r"`c_attn` names no layer"),
    "what holds layers": (["q_proj", "self_attn"], r"`self_attn` names no layer .* LoRA can adapt"),
    "none": ([], "the list is empty"),
    "a name in place of a list": (
        "q_proj",
        r"matched as a regular expression .*; write \[q_proj\]",
    ),
    "a pattern that fits nothing": (r".*\.query", r"matches none; the linear layers are"),
    "a pattern that fits too much": (r".*self_attn.*", r"matches `model.layers.0.self_attn`"),
    "a broken pattern": (r".*(q_proj", r"is not a valid regular expression: "),
}


@pytest.mark.parametrize("what", REFUSED)
def test_layers_that_are_not_there_are_named(tiny_base: Any, what: str) -> None:
    wanted, message = REFUSED[what]
    layers = named_layers(tiny_base.model)
    with pytest.raises(RecipeError, match=r"^lora\.target_modules: ") as error:
        adapter_targets(layers, LoraSpec(target_modules=wanted))
    assert re.search(message, str(error.value))
    assert "\n" not in str(error.value)
    with pytest.raises(RecipeError):
        add_lora(tiny_base, LoraSpec(target_modules=wanted), seed=0)


@pytest.mark.parametrize(
    "wanted",
    [
        ["q_proj", "v_proj"],
        ["embed_tokens", "lm_head"],
        ["layers.1.self_attn.q_proj"],
        r".*\.layers\.1\..*_proj",
        "ALL-LINEAR",
    ],
)
def test_what_peft_takes_is_given_as_it_is(tiny_base: Any, wanted: str | list[str]) -> None:
    assert adapter_targets(named_layers(tiny_base.model), LoraSpec(target_modules=wanted)) == wanted
    adapted = add_lora(tiny_base, LoraSpec(target_modules=wanted), seed=0)
    assert any(p.requires_grad for p in adapted.parameters())


def test_a_layer_that_a_mixer_reads_directly_is_refused_by_name() -> None:
    layers = named_layers(tiny("mamba"))
    with pytest.raises(RecipeError, match=r"`out_proj` cannot be adapted: .*reads the weights"):
        adapter_targets(layers, LoraSpec(target_modules=["in_proj", "out_proj"]))
    # In other models, this name is an ordinary layer.
    spec = LoraSpec(target_modules=["out_proj"])
    assert adapter_targets(named_layers(tiny("jamba")), spec) == ["out_proj"]


def test_experts_by_their_old_names_are_for_peft_to_translate() -> None:
    model = tiny("mixtral")
    wanted = ["q_proj", "w1", "w2", "w3"]
    assert adapter_targets(named_layers(model), LoraSpec(target_modules=wanted)) == wanted
    with pytest.raises(RecipeError, match="`w4`"):
        adapter_targets(named_layers(model), LoraSpec(target_modules=[*wanted, "w4"]))
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=wanted)
    assert get_peft_model(model, config).peft_config["default"].target_parameters


def test_what_peft_refuses_is_one_sentence() -> None:
    base = type("Base", (), {"model": tiny("mixtral")})()
    with pytest.raises(
        RecipeError, match=r"^lora: PEFT cannot add this adapter: .*dropout"
    ) as error:
        add_lora(base, LoraSpec(target_modules=["w1", "w2", "w3"], dropout=0.1), seed=0)
    assert "\n" not in str(error.value)
