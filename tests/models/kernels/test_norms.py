"""RMSNorm with fewer operations has the same values and gradients, and applies only to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from test_packing import SMALL, random_model
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from telltune.models.kernels.norms import FusedRMSNorm


def layer(kind: Any = LlamaRMSNorm, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    module = kind(16).requires_grad_(False)
    module.weight.data = torch.randn(16)
    return torch.nn.Sequential(module).to(dtype)


class CenteredRMSNorm(LlamaRMSNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - x.mean(-1, keepdim=True))


def computed(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    result = model(x)
    return [result, *torch.autograd.grad(result, x, torch.ones_like(result).cumsum(-1))]


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma3RMSNorm])
def test_result_and_gradient_are_the_layers(kind: Any) -> None:
    model = layer(kind)
    x = torch.randn(2, 5, 16)
    wanted = computed(model, x)
    with FusedRMSNorm(model):
        assert "forward" in vars(model[0])
        found = computed(model, x)
    assert "forward" not in vars(model[0])
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma3RMSNorm])
def test_in_bf16_it_is_as_near_to_fp32_as_the_layer_is(kind: Any) -> None:
    x = torch.randn(50, 16).bfloat16()
    exact = computed(layer(kind), x.float())
    model = layer(kind, torch.bfloat16)
    theirs = computed(model, x)
    with FusedRMSNorm(model):
        ours = computed(model, x)
    for mine, their, wanted in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.float() - wanted).norm() <= 1.1 * (their.float() - wanted).norm()


@pytest.mark.parametrize("trained", [False, True])
def test_other_formulas_and_trained_layers_compute_as_they_are(trained: bool) -> None:
    model = layer(LlamaRMSNorm if trained else CenteredRMSNorm).requires_grad_(trained)
    with FusedRMSNorm(model):
        assert "forward" not in vars(model[0])
    with FusedRMSNorm(torch.nn.LayerNorm(4).requires_grad_(False)):
        pass


@pytest.mark.parametrize("kind", ["LlamaConfig", "Qwen3Config", "Gemma3TextConfig", "GPT2Config"])
def test_models_give_the_same_logits(kind: str) -> None:
    values = SMALL if kind != "GPT2Config" else {"vocab_size": 50, "n_embd": 16, "n_head": 2}
    assert hasattr(transformers, kind)
    model = random_model(kind, {"head_dim": 8, **values} if kind[-10:] != "GPT2Config" else values)
    model.requires_grad_(False)
    norms = [m for m in model.modules() if type(m).__name__.endswith("RMSNorm")]
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        wanted = model(ids).logits
        with FusedRMSNorm(model):
            assert all("forward" in vars(norm) for norm in norms)
            torch.testing.assert_close(model(ids).logits, wanted, rtol=1e-4, atol=1e-4)


def test_a_changed_weight_counts_from_the_next_time_on() -> None:
    model = layer(Gemma3RMSNorm)
    x = torch.randn(5, 16)
    norms = FusedRMSNorm(model)
    with torch.no_grad():
        for _ in range(2):
            with norms:
                found = model(x)
            torch.testing.assert_close(found, model(x))
            model[0].weight += 1
