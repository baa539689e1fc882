"""Decoder layers with fewer operations give the model's results, where they apply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from test_packing import SMALL, random_model

from telltune.inference.key_values import KeyValues, attend
from telltune.inference.packed_engine import PackedGenerator, _with_quick_layers, layer_backend
from telltune.models.kernels.attention import attention
from telltune.models.kernels.decoder_layers import FusedLayers

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = {"sliding_window": 4, "head_dim": 8}
USUAL: dict[str, dict[str, Any]] = {
    "LlamaConfig": {},
    "Qwen2Config": {},
    "MistralConfig": {"sliding_window": 4},
    "Qwen3Config": {**WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    "GraniteConfig": {"residual_multiplier": 0.3, "attention_multiplier": 0.2},
    "Gemma2Config": {**WINDOW, "attn_logit_softcapping": 2.0},
    "Gemma3TextConfig": {**WINDOW, "sliding_window_pattern": 2},
}
# The layers of SmolLM 3 have the same parts, and some do not rotate.
UNROTATED = {"no_rope_layer_interval": 2}


def model_of(kind: str, **values: Any) -> Any:
    model = random_model(kind, {**SMALL, **values})
    # Biases and norms that are all the same would hide whether they count.
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter)
    return model


def beside(*layers: Any) -> Any:
    return lambda x: torch.cat([layer(x) for layer in layers], -1)


def passes(model: Any, started: Callable[[], object] = lambda: None) -> torch.Tensor:
    """Logits of two prompts and of more tokens of each; calls `started` between them."""
    engine, store = PackedGenerator(model), KeyValues(2, 40)
    with torch.inference_mode():
        parts = [engine._start(store, [[5, 6, 7, 8, 9], [9, 8]])]
        started()
        parts += [engine._grow(store, [[n, n + 1], [n + 2, n + 3]]) for n in (10, 20)]
    return torch.cat(parts)


@pytest.mark.parametrize("kind", USUAL)
def test_they_give_what_the_model_gives(kind: str) -> None:
    model = model_of(kind, **USUAL[kind])
    assert layer_backend(model) == "quick"
    with attention(model, "plain", attend):
        wanted = passes(model)
    with _with_quick_layers(model):
        assert all("forward" in vars(layer) for layer in model.model.layers)
        # Once a layer has told its kind of attention, a pass of few tokens does not ask its parts.
        mlp = model.model.layers[0].mlp
        found = passes(model, lambda: setattr(mlp, "forward", None))
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
    for kind in ("Phi3Config", "Olmo2Config", "GPT2Config"):
        with FusedLayers(model_of(kind), beside) as quick:
            assert quick._layers == []
    # Without its product a layer is not changed.
    with FusedLayers(model_of("LlamaConfig"), lambda *layers: None) as quick:
        assert quick._layers == []


def test_layers_that_only_look_the_same_are_found_by_the_trial() -> None:
    assert layer_backend(model_of("LlamaConfig")) == "quick"
    smollm = model_of("SmolLM3Config", **UNROTATED)
    with FusedLayers(smollm, beside) as quick:
        assert quick._layers
    assert layer_backend(smollm) == "plain"
