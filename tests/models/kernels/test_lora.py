"""Fused LoRA products give PEFT's results, with fewer random draws and less memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from telltune.models.kernels import lora
from telltune.models.kernels.lora import FusedLora, is_plain_lora

IDS = torch.arange(3, 30)[None]


def adapted(base: Any, **options: Any) -> Any:
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", **options}
    model = get_peft_model(base.model, LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def loss_and_gradients(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def plain_layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if is_plain_lora(module)]


def assert_same(found: Any, wanted: Any) -> None:
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    assert found[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_modules": ["q_proj", "v_proj", "down_proj"]},
        {"use_rslora": True},
        # Only the plain ones are fused.
        {"use_dora": True},
        {"lora_bias": True},
    ],
)
def test_loss_and_gradients_are_pefts(tiny_base: Any, options: dict[str, Any]) -> None:
    model = adapted(tiny_base, **options)
    wanted = loss_and_gradients(model)
    with FusedLora(model):
        found = loss_and_gradients(model)
    assert_same(found, wanted)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("options", [{}, {"target_modules": ["q_proj", "v_proj", "down_proj"]}])
def test_with_the_second_factors_beside_the_weights_it_is_the_same(
    tiny_base: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], dropout: float
) -> None:
    model = adapted(tiny_base, lora_dropout=dropout, **options)
    found = []
    for wide in (False, True):
        monkeypatch.setattr(lora, "_affords_copies", lambda _, wide=wide: wide)
        fused = FusedLora(model)
        assert all((group._wide is not None) == wide for group in fused._groups)
        torch.manual_seed(5)
        with fused:
            found.append(loss_and_gradients(model))
        # After a step the factors differ.
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data *= 1.5
        torch.manual_seed(5)
        with fused:
            found.append(loss_and_gradients(model))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data /= 1.5
    assert_same(found[2], found[0])
    assert_same(found[3], found[1])
    assert found[0][0] != found[1][0]


def test_in_bf16_a_small_update_is_not_lost(tiny_base: Any) -> None:
    model = adapted(tiny_base).to(torch.bfloat16).eval()
    layer = plain_layers(model)[0]
    torch.manual_seed(3)
    x = torch.randn(4000, layer.base_layer.in_features).bfloat16()
    base = x.float() @ layer.base_layer.weight.float().t()
    # Too small to change the rounding of most sums.
    layer.lora_B["default"].weight.data *= 2e-3
    update = x.float() @ layer.get_delta_weight("default").float().t()
    assert update.abs().mean() < base.abs().mean() / 500

    def kept(result: torch.Tensor) -> float:
        """Return the share of the update that a result contains."""
        return float(((result.float() - base) * update).sum() / (update**2).sum())

    with torch.no_grad(), FusedLora(model):
        ours = kept(layer(x))
    with torch.no_grad():
        pefts = kept(layer(x))
    assert ours == pytest.approx(1, abs=0.15)
    assert pefts < 0.85


def test_copies_are_made_in_half_precision_and_where_memory_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = torch.zeros(100, dtype=torch.bfloat16)
    assert lora._affords_copies([weight])
    assert not lora._affords_copies([weight, torch.zeros(100)])
    assert not lora._affords_copies([])
    monkeypatch.setattr(lora.psutil, "virtual_memory", lambda: SimpleNamespace(available=799))
    assert not lora._affords_copies([weight])


def test_layers_that_read_the_same_input_are_one_product(tiny_base: Any) -> None:
    model = adapted(tiny_base)
    layers = plain_layers(model)
    assert layers
    fused = FusedLora(model)
    calls = []
    for layer in layers:
        layer.lora_A["default"].register_forward_hook(lambda *_: calls.append(1))
    with fused:
        model(input_ids=IDS)
    assert not calls
    # For each of two layers: queries, keys and values; the output; gate and up; down.
    assert [len(group.layers) for group in fused._groups] == [3, 1, 2, 1] * 2


def test_afterwards_the_model_is_as_it_was(tiny_base: Any) -> None:
    model = adapted(tiny_base)
    wanted = loss_and_gradients(model)
    with pytest.raises(IndexError), FusedLora(model):
        model(input_ids=torch.tensor([[10**6]]))
    assert all("forward" not in vars(layer) for layer in plain_layers(model))
    assert_same(loss_and_gradients(model), wanted)


def test_bias_of_the_base_and_a_model_without_an_adapter(tiny_base: Any) -> None:
    with FusedLora(tiny_base.model):
        assert tiny_base.model(input_ids=IDS).logits.isfinite().all()
    for module in tiny_base.model.modules():
        if type(module) is torch.nn.Linear:
            module.bias = torch.nn.Parameter(torch.randn(module.out_features), requires_grad=False)
    model = adapted(tiny_base)
    wanted = loss_and_gradients(model)
    with FusedLora(model):
        assert_same(loss_and_gradients(model), wanted)


def test_gradients_flow_through_checkpointed_layers(tiny_base: Any) -> None:
    model = adapted(tiny_base, lora_dropout=0.3)
    fused = FusedLora(model)
    torch.manual_seed(5)
    with fused:
        wanted = loss_and_gradients(model)
    tiny_base.model.enable_input_require_grads()
    tiny_base.model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(5)
    with fused:
        assert_same(loss_and_gradients(model), wanted)


def test_dropout_drops_its_share_and_scales_the_rest(tiny_base: Any) -> None:
    model = adapted(tiny_base, lora_dropout=0.25)
    layer = plain_layers(model)[-1]
    layer.base_layer.weight.data.zero_()
    x = torch.ones(400, layer.base_layer.in_features)
    wanted = layer.lora_B["default"](layer.lora_A["default"](x[:1])) * layer.scaling["default"]
    with FusedLora(model):
        drawn = [layer(x) for _ in range(20)]
        model.eval()
        torch.testing.assert_close(layer(x[:1]), wanted)
    assert not torch.equal(drawn[0], drawn[1])
    found = torch.cat(drawn).mean(0)
    torch.testing.assert_close(found, wanted[0], rtol=0, atol=0.05 * float(wanted.abs().max()))


def test_dropout_has_the_gradient_of_what_it_computed(tiny_base: Any) -> None:
    model = adapted(tiny_base, lora_dropout=0.5).double()
    layer = plain_layers(model)[0]
    x = torch.randn(5, layer.base_layer.in_features, dtype=torch.float64, requires_grad=True)
    with FusedLora(model) as fused:
        group = next(g for g in fused._groups if layer in g.layers)

        def computed(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            torch.manual_seed(3)
            fused._noise.renew()
            return group.compute(x)

        assert torch.autograd.gradcheck(computed, (x,))


def test_a_resumed_run_draws_the_same(tiny_base: Any) -> None:
    model = adapted(tiny_base, lora_dropout=0.2)
    fused = FusedLora(model)
    losses = []
    for _ in range(2):
        torch.manual_seed(9)
        with fused:
            losses.append(loss_and_gradients(model)[0])
    assert losses[0] == losses[1]
