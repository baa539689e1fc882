"""Several architectures train with default settings, and load in plain PEFT."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import telltune
from telltune.fitting.adapter_folder import load_predictor
from telltune.models import load_base
from telltune.models.kernels.packing import can_pack
from telltune.recipe import ModelSpec

if TYPE_CHECKING:
    from pathlib import Path

IDS = torch.arange(3, 30)[None]
# By architecture: its sizes, whether examples can share a row, and warnings of the plan.
ARCHITECTURES: dict[str, tuple[dict[str, Any], bool, str]] = {
    "mamba": (
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        False,
        "leaves out `dt_proj`, `out_proj`, `x_proj`",
    ),
    "mamba2": (
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "head_dim": 16}
        | {"num_heads": 4, "n_groups": 1, "chunk_size": 16},
        False,
        "leaves out `out_proj`",
    ),
    "jamba": (
        {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
        | {"num_attention_heads": 2, "num_key_value_heads": 2, "num_experts": 2}
        | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts_per_tok": 1}
        | {"mamba_d_state": 4, "mamba_dt_rank": 4},
        False,
        "leaves out `dt_proj`",
    ),
    "gpt2": ({"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512}, True, ""),
    "opt": (
        {"hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 64, "num_attention_heads": 2}
        | {"word_embed_proj_dim": 32, "max_position_embeddings": 512},
        True,
        "",
    ),
    "phi": (
        {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
        | {"num_attention_heads": 2, "max_position_embeddings": 512},
        True,
        "",
    ),
}


def make(kind: str, folder: Path, tokenizer: Any) -> Path:
    ids = {
        f"{use}_token_id": getattr(tokenizer, f"{use}_token_id") for use in ("bos", "eos", "pad")
    }
    config = CONFIG_MAPPING[kind](
        vocab_size=len(tokenizer), tie_word_embeddings=False, **ids, **ARCHITECTURES[kind][0]
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_it_trains_and_loads_again(
    kind: str, toy_recipe: dict[str, Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    _, packed, warned = ARCHITECTURES[kind]
    folder = make(kind, tmp_path / kind, tiny_tokenizer)
    base = load_base(ModelSpec(name=str(folder)), "fp32")
    assert can_pack(base.model) == packed
    toy_recipe |= {"model": str(folder), "mixture": {"leverage_ratio": 0.5, "passes": 1}}
    del toy_recipe["lora"]
    toy_recipe["training"]["batch_size"] = 12
    warnings = telltune.plan(toy_recipe, measure=False)["warnings"]
    about = [text for text in warnings if text.startswith("lora.target_modules")]
    assert len(about) == bool(warned)
    assert all(warned in text for text in about)

    out = tmp_path / "out"
    telltune.fit(toy_recipe, out, progress=False)
    weights = load_file(out / "adapter_model.safetensors")
    assert [name for name, value in weights.items() if not value.any()] == []
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), out).eval()
    ours = load_predictor(out, precision="fp32").model
    with torch.no_grad():
        assert torch.equal(plain(IDS).logits, ours(IDS).logits)
        assert not torch.equal(plain(IDS).logits, base.model(IDS).logits)
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 16


def test_layers_that_are_not_there_are_refused_before_training(
    toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    toy_recipe["lora"] = {"target_modules": ["q_proj", "vproj"]}
    for verb in (
        lambda: telltune.plan(toy_recipe, measure=False),
        lambda: telltune.fit(toy_recipe, tmp_path / "out", progress=False),
    ):
        with pytest.raises(telltune.TellError, match=r"`vproj` \(did you mean `v_proj`\?\)"):
            verb()
    assert not (tmp_path / "out").exists()
