"""Decoder layers with fewer operations give the model's results, where they apply."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_packing import SMALL, random_model

from telltune.inference.key_values import KeyValues, attend
from telltune.inference.packed_engine import PackedGenerator, _layer_backend, _with_quick_layers
from telltune.models.kernels.attention import attention
from telltune.models.kernels.decoder_layers import FusedLayers

USUAL = ["LlamaConfig", "Qwen2Config", "MistralConfig"]
# Its layers have the same parts, and scale their outputs.
GRANITE = {**SMALL, "residual_multiplier": 0.3}


def model_of(kind: str, **values: Any) -> Any:
    model = random_model(kind, {**SMALL, "sliding_window": None, **values})
    # With biases of zero, a missing bias would not show.
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def beside(*layers: Any) -> Any:
    return lambda x: torch.cat([layer(x) for layer in layers], -1)


def passes(model: Any) -> torch.Tensor:
    """Return logits of two prompts, and of two further tokens of each."""
    engine, store = PackedGenerator(model), KeyValues(2, 40)
    with torch.inference_mode():
        parts = [engine._start(store, [[5, 6, 7], [9, 8]])]
        parts += [engine._grow(store, [[n, n + 1], [n + 2, n + 3]]) for n in (10, 20)]
    return torch.cat(parts)


@pytest.mark.parametrize("kind", USUAL)
def test_they_give_what_the_model_gives(kind: str) -> None:
    model = model_of(kind)
    with attention(model, "plain", attend):
        wanted = passes(model)
    with _with_quick_layers(model):
        assert all("forward" in vars(layer) for layer in model.model.layers)
        # A pass of few tokens does not call the MLP.
        model.model.layers[0].mlp.forward = None
        found = passes(model)
    assert not any("forward" in vars(layer) for layer in model.model.layers)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_pass_over_many_tokens_is_the_models_own() -> None:
    model = model_of("LlamaConfig")
    seen: list[int] = []
    model.model.layers[1].mlp.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].shape[1])
    )
    engine, store = PackedGenerator(model), KeyValues(1, 40)
    with torch.inference_mode(), _with_quick_layers(model):
        engine._start(store, [[*range(3, 33)]])
        engine._grow(store, [[5]])
    assert seen == [30]


def test_layers_of_another_make_compute_as_they_are() -> None:
    for kind, values in (("Qwen3Config", {"head_dim": 8}), ("GPT2Config", {})):
        with FusedLayers(model_of(kind, **values), beside) as quick:
            assert quick._layers == []
    # Without its product a layer is not changed.
    with FusedLayers(model_of("LlamaConfig"), lambda *layers: None) as quick:
        assert quick._layers == []


def test_layers_that_only_look_the_same_are_found_by_the_trial() -> None:
    assert _layer_backend(model_of("LlamaConfig")) == "quick"
    granite = model_of("GraniteConfig", **GRANITE)
    with FusedLayers(granite, beside) as quick:
        assert quick._layers
    assert _layer_backend(granite) == "plain"


def test_layers_that_do_not_tell_of_a_window_leave_models_with_one_alone() -> None:
    # The texts of the trial are too short to show it.
    assert _layer_backend(model_of("MistralConfig", sliding_window=1000)) == "plain"
