"""Packed weights compute the model's results, and leave the model unchanged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_lora import IDS, adapted, plain_layers

from telltune.models.kernels import prepacked as module
from telltune.models.kernels.prepacked import Prepacked

packs_bf16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN packs no bf16 on this CPU"
)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("options", [None, {}, {"use_dora": True}, {"lora_dropout": 0.5}])
def test_the_logits_are_the_models(tiny_base: Any, options: dict[str, Any] | None) -> None:
    model = tiny_base.model if options is None else adapted(tiny_base, **options)
    model.eval()
    wanted = logits(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    packed = Prepacked(model)
    for _ in range(2):
        with packed:
            torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model), wanted)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("packs", [pytest.param(True, marks=packs_bf16), False])
def test_in_bf16_an_adapter_stands_beside_the_weights(
    tiny_base: Any, monkeypatch: pytest.MonkeyPatch, packs: bool
) -> None:
    model = adapted(tiny_base).eval()
    exact = logits(model)
    model.to(torch.bfloat16)
    monkeypatch.setattr(module, "native_bf16", lambda: packs)
    packed = Prepacked(model)
    with packed:
        found = logits(model)
        layer = plain_layers(model)[0]
        assert "forward" in vars(layer)
    assert bool(packed._products) == packs
    assert "forward" not in vars(layer)
    assert (found.float() - exact).norm() / exact.norm() < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=packs_bf16)])
def test_layers_that_read_the_same_are_one_product(
    tiny_base: Any, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    # Some layers have an adapter, and others have none.
    model = adapted(tiny_base, target_modules=["q_proj", "v_proj", "up_proj"]).eval()
    exact = logits(model)
    model.to(dtype)
    monkeypatch.setattr(module, "native_bf16", lambda: True)
    packed = Prepacked(model)
    with packed:
        found = logits(model)
    assert packed._products is not None
    sizes = [len(product.layers) for product in packed._products]
    assert sizes == [3, 1, 2, 1] * model.config.num_hidden_layers + [1]
    assert (found.float() - exact).norm() / exact.norm() < (0.03 if dtype.itemsize == 2 else 1e-5)


def test_the_packed_layers_are_what_computes(tiny_base: Any) -> None:
    wanted = logits(tiny_base.model)
    packed = Prepacked(tiny_base.model)
    with packed:
        pass
    tiny_base.model.lm_head.weight.data.zero_()
    assert not logits(tiny_base.model).any()
    with packed:
        torch.testing.assert_close(logits(tiny_base.model), wanted, rtol=1e-4, atol=1e-4)


def test_with_too_little_memory_the_model_computes_as_it_is(
    tiny_base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SimpleNamespace(available=1000)
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: memory)
    packed = Prepacked(tiny_base.model)
    with packed:
        assert logits(tiny_base.model).isfinite().all()
    assert packed._products == []
