"""The loss without logits has the same values and gradients as the model's own loss.

The kernels need a GPU. Here plain PyTorch replaces them, and every output layer counts as one on a
GPU.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

from telltune.models.kernels import cut_loss as module
from telltune.models.kernels.cut_loss import chunked_cross_entropy, cut_loss
from telltune.models.kernels.packing import pack, token_nll

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.5,
    "pad_token_id": 0,
}


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Install a fake cut-cross-entropy, as on a GPU; return the dtypes that it gets."""
    dtypes: list[torch.dtype] = []

    def linear_cross_entropy(
        e: torch.Tensor, c: torch.Tensor, targets: torch.Tensor, *, softcap: Any, reduction: str
    ) -> torch.Tensor:
        dtypes.append(e.dtype)
        logits = functional.linear(e, c)
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        return functional.cross_entropy(logits, targets, reduction=reduction)

    installed = ModuleType("cut_cross_entropy")
    installed.linear_cross_entropy = linear_cross_entropy  # type: ignore[attr-defined]
    installed.__spec__ = ModuleSpec("cut_cross_entropy", None)
    monkeypatch.setitem(sys.modules, "cut_cross_entropy", installed)
    monkeypatch.setattr(module, "_suits_kernels", lambda head: True)
    return dtypes


def model(kind: str = "LlamaConfig", **values: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**SMALL | values)
    return transformers.AutoModelForCausalLM.from_config(config)


def test_loss_and_gradients_are_those_of_the_logits() -> None:
    llama = model(tie_word_embeddings=True)
    batch = pack([(np.arange(3, 20, dtype=np.int32), 5)], 64)[0]
    cut = cut_loss(llama)
    assert cut is not None
    found = []
    for way in (None, cut):
        llama.zero_grad()
        nll = token_nll(llama, batch, way)
        nll.sum().backward()
        found.append([nll, *(p.grad.clone() for p in llama.parameters())])
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain)


def test_the_model_gives_logits_again_afterwards() -> None:
    llama = model()
    cut = cut_loss(llama)
    assert cut is not None
    with cut:
        assert llama(torch.tensor([[3, 4]])).logits.shape == (1, 2, 16)
    assert llama(torch.tensor([[3, 4]])).logits.shape == (1, 2, 50)


def test_kernels_get_the_weights_own_precision(seen: list[torch.dtype]) -> None:
    llama = model().to(torch.bfloat16)
    cut = cut_loss(llama)
    assert cut is not None
    seen.clear()
    nll = cut.nll(torch.randn(3, 16), torch.tensor([1, 2, 3]))
    assert seen == [torch.bfloat16]
    assert nll.dtype == torch.float32


def test_a_model_that_scales_its_logits_has_its_hidden_states_scaled() -> None:
    for scaled in (
        model("CohereConfig", logit_scale=0.25, eos_token_id=2),
        model("GraniteConfig", logits_scaling=3.0),
    ):
        batch = pack([(np.arange(3, 20, dtype=np.int32), 5)], 64)[0]
        cut = cut_loss(scaled)
        assert cut is not None
        torch.testing.assert_close(token_nll(scaled, batch, cut), token_nll(scaled, batch))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_model_that_caps_its_logits_has_them_capped_in_the_loss(frozen: bool) -> None:
    gemma = model("Gemma2Config", head_dim=8, final_logit_softcapping=2.0)
    gemma.lm_head.weight.requires_grad_(not frozen)
    batch = pack([(np.arange(3, 20, dtype=np.int32), 5)], 64)[0]
    cut = cut_loss(gemma)
    assert cut is not None
    assert (cut.cross_entropy is chunked_cross_entropy) == frozen
    found = []
    for way in (None, cut):
        gemma.zero_grad()
        nll = token_nll(gemma, batch, way)
        nll.sum().backward()
        # The tied weight of the output layer is among them, if it is trained.
        found.append([nll, *(p.grad for p in gemma.parameters() if p.grad is not None)])
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain)
    assert gemma.config.final_logit_softcapping == 2.0


@torch.no_grad()
def test_a_configuration_that_refuses_to_have_no_cap_is_no_obstacle() -> None:
    gemma = model(
        "Gemma3nTextConfig", head_dim=8, vocab_size_per_layer_input=50, num_kv_shared_layers=0
    )
    batch = pack([(np.arange(3, 20, dtype=np.int32), 5)], 64)[0]
    cut = cut_loss(gemma)
    assert cut is not None
    torch.testing.assert_close(token_nll(gemma, batch, cut), token_nll(gemma, batch))
    assert gemma.config.final_logit_softcapping == 30.0


def test_a_model_that_bends_its_logits_in_another_way_keeps_them() -> None:
    class Bent(transformers.LlamaForCausalLM):
        def forward(self, *args: Any, **values: Any) -> Any:
            found = super().forward(*args, **values)
            found.logits = found.logits.tanh()
            return found

    torch.manual_seed(0)
    assert cut_loss(Bent(transformers.LlamaConfig(**SMALL))) is None


def test_kernels_that_do_not_compile_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(sys.modules["cut_cross_entropy"], "linear_cross_entropy", broken)
    # Its weights are trained, so the chunked loss does not apply either.
    assert cut_loss(model()) is None
    assert "no such instruction" in caplog.text
    cut = cut_loss(model().requires_grad_(False))
    assert cut is not None
    assert cut.cross_entropy is chunked_cross_entropy


def test_on_a_cpu_the_loss_is_computed_some_positions_at_a_time(
    monkeypatch: pytest.MonkeyPatch, seen: list[torch.dtype]
) -> None:
    monkeypatch.undo()
    llama = model().to(torch.bfloat16).requires_grad_(False)
    cut = cut_loss(llama)
    assert cut is not None
    batch = pack([(np.arange(3, 20, dtype=np.int32), 5)], 64)[0]
    torch.testing.assert_close(
        token_nll(llama, batch, cut), token_nll(llama, batch), atol=0.05, rtol=0.01
    )
    assert seen == []
