"""Families of models: the fast paths that the docs name, and values that are the model's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_packing import ROWS, SMALL, VOCABULARY, random_model

from telltune.inference.engine import make_generator
from telltune.inference.packed_engine import layer_backend
from telltune.inference.transformers_engine import TransformersGenerator, _can_share
from telltune.models.kernels.cut_loss import cut_loss
from telltune.models.kernels.decoder_layers import FusedLayers
from telltune.models.kernels.fast_path import FastPath
from telltune.models.kernels.packing import can_pack, pack, token_nll

PAGE = Path(__file__).parents[3] / "docs" / "research" / "performance.md"

# Windows are shorter than examples, prompts and what they share. Caps bend most scores.
DEEP = {**SMALL, "num_hidden_layers": 4, "head_dim": 8}
WINDOW = {**DEEP, "sliding_window": 4}
QWEN = {**WINDOW, "use_sliding_window": True, "max_window_layers": 2}
GEMMA_3 = {**WINDOW, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", DEEP),
    "Mistral": ("MistralConfig", WINDOW),
    "Phi 3": ("Phi3Config", {**SMALL, "sliding_window": 4}),
    "Qwen 2": ("Qwen2Config", {**QWEN, "head_dim": 8}),
    "Qwen 3": ("Qwen3Config", QWEN),
    "Qwen 3 MoE": (
        "Qwen3MoeConfig",
        {**QWEN, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    "SmolLM 3": ("SmolLM3Config", {**DEEP, "no_rope_layer_interval": 2}),
    "Granite": (
        "GraniteConfig",
        {**SMALL, "embedding_multiplier": 2.0, "residual_multiplier": 0.3}
        | {"attention_multiplier": 0.2, "logits_scaling": 3.0},
    ),
    "Gemma": ("GemmaConfig", DEEP),
    "Gemma 2": (
        "Gemma2Config",
        {**WINDOW, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    ),
    "Gemma 3": ("Gemma3TextConfig", GEMMA_3),
    "Gemma 3 with images": (
        "Gemma3Config",
        {
            "text_config": GEMMA_3,
            "vision_config": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
            | {"num_attention_heads": 2, "image_size": 16, "patch_size": 8},
            "mm_tokens_per_image": 1,
        },
    ),
    "Gemma 4": (
        "Gemma4TextConfig",
        {**WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2}
        | {"num_kv_shared_layers": 2, "global_head_dim": 16, "hidden_size_per_layer_input": 4}
        | {"vocab_size_per_layer_input": VOCABULARY},
    ),
    "gpt-oss": ("GptOssConfig", {**WINDOW, "num_local_experts": 3, "num_experts_per_tok": 2}),
    "Cohere 2": ("Cohere2Config", {**SMALL, "sliding_window": 4, "logit_scale": 0.25}),
    "OLMo 3": ("Olmo3Config", WINDOW),
    "Llama 4": (
        "Llama4TextConfig",
        {**DEEP, "attention_chunk_size": 1000, "num_local_experts": 2, "intermediate_size_mlp": 32}
        | {"no_rope_layer_interval": 2},
    ),
    "Mamba": ("MambaConfig", {"vocab_size": VOCABULARY, "hidden_size": 16, "state_size": 4}),
    "LFM 2": ("Lfm2Config", {**SMALL, "layer_types": ["conv", "full_attention"]}),
    "Qwen 3 Next": (
        "Qwen3NextConfig",
        {**DEEP, "num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
        | {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8}
        | {"linear_value_head_dim": 8, "num_experts": 3, "num_experts_per_tok": 2}
        | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    ),
    "Bloom": (
        "BloomConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 2},
    ),
}
PLAIN = ["Llama 4", "Mamba", "LFM 2", "Qwen 3 Next", "Bloom"]
FAST = [name for name in FAMILIES if name not in PLAIN]


def family(name: str) -> Any:
    model = random_model(*FAMILIES[name]).requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    # Norms that all scale by one would hide how their weights count.
    for key, weight in model.named_parameters():
        if "norm" in key:
            weight += torch.rand(weight.shape, generator=generator) / 2
    return model


def adapted(name: str) -> Any:
    torch.manual_seed(1)
    settings = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")
    model = get_peft_model(family(name), settings)
    for key, weight in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(weight, std=0.1)
    return model


def said() -> dict[str, tuple[str, ...]]:
    """The table of families in the docs."""
    table = PAGE.read_text(encoding="utf-8").partition("\n| family |")[2].partition("\n\n")[0]
    rows = [re.split(r" *\| *", line.strip("| ")) for line in table.splitlines()[2:]]
    return {name: tuple(cells) for name, *cells in rows}


def test_the_docs_name_every_family_that_is_tried() -> None:
    assert list(said()) == list(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_takes_the_paths_that_the_docs_name(name: str) -> None:
    model = family(name)
    layers = layer_backend(model)
    short = layers == "quick" and bool(FusedLayers(model, lambda *_: abs)._layers)
    assert said()[name] == (
        "packed" if can_pack(model) else "one by one",
        "in parts" if cut_loss(model) is not None else "all logits",
        ("`generate`, shared" if _can_share(model) else "`generate`")
        if layers is None
        else "packed, short layers"
        if short
        else "packed",
    )


def sums_and_gradients(model: Any, fast: FastPath) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss of each example and its gradient in each weight of the adapter."""
    model.zero_grad()
    sums = torch.zeros(len(ROWS))
    with fast.active():
        for batch in pack(ROWS, 40, together=fast.packed):
            nll = token_nll(model, batch, fast.cut_loss)
            nll.sum().backward()
            sums.index_add_(0, batch.rows, nll.detach())
    return sums, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", FAST)
def test_packed_training_has_the_models_losses_and_gradients(name: str) -> None:
    model = adapted(name).train()
    fast = FastPath(model)
    assert fast.packed
    assert fast.cut_loss is not None
    wanted, theirs = sums_and_gradients(model, FastPath(model, "off"))
    found, ours = sums_and_gradients(model, fast)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert theirs
    assert ours.keys() == theirs.keys()
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient, rtol=1e-3, atol=1e-4 * gradient.norm())


numbers = np.random.default_rng(5)
PROMPTS = [numbers.integers(3, VOCABULARY, n).tolist() for n in (9, 3, 17, 1, 8)]
OPENING = numbers.integers(3, VOCABULARY, 20).tolist()


# Adapters are computed alike in all families: beside separate and joint projections, experts, and
# norms behind attention.
ADAPTED = ("Llama", "Phi 3", "Qwen 3 MoE", "Gemma 2", "gpt-oss")


@pytest.mark.parametrize(
    ("name", "made"), [*((name, family) for name in FAST), *((name, adapted) for name in ADAPTED)]
)
def test_packed_answers_are_those_of_generate(name: str, made: Any) -> None:
    model = made(name).eval()
    packed = make_generator(model, 0, 200, "packed")
    plain = TransformersGenerator(model, 0, 200, shares=False)
    how: dict[str, Any] = {"max_new_tokens": 6, "stop_ids": set()}
    # Many, those with a shared start, and one, which is drafted.
    for prompts in (PROMPTS, [OPENING + prompt for prompt in PROMPTS], [PROMPTS[0] * 3]):
        assert packed.generate(prompts, **how) == plain.generate(prompts, **how)


# PEFT cannot adapt Llama 4's router.
@pytest.mark.parametrize(
    ("name", "made"),
    [("Llama 4", family), ("LFM 2", adapted), ("Qwen 3 Next", family), ("Bloom", adapted)],
)
def test_a_shared_prefix_is_read_once_and_changes_no_answer(name: str, made: Any) -> None:
    model = made(name).eval()
    prompts = [OPENING + prompt for prompt in PROMPTS]
    how: dict[str, Any] = {"max_new_tokens": 6, "stop_ids": set()}
    plain = TransformersGenerator(model, 0, 200, shares=False)
    alone = [plain.generate([prompt], **how)[0] for prompt in prompts]
    shared = TransformersGenerator(model, 0, 200)
    _can_share(model)
    read: list[int] = []
    embedding = model.get_input_embeddings()
    embedding.register_forward_pre_hook(lambda _, args: read.append(args[0].numel()))
    assert shared.generate(prompts, **how) == alone
    # Padding is read only without a shared prefix.
    assert sum(read) == len(OPENING) + sum(map(len, PROMPTS)) + 5 * len(PROMPTS)
    assert len(set(map(tuple, alone))) == len(alone)
