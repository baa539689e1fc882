"""QLoRA quantizes the frozen layers; its adapter trains, is saved, and answers."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

import telltune
from telltune.checked_run import check_recipe
from telltune.data.task import load_general, load_task
from telltune.errors import ModelError, RecipeError
from telltune.fitting.protocol import Settings
from telltune.methods.registry import get_method
from telltune.models import base_revision, load_base, without_bitsandbytes
from telltune.recipe import ModelSpec, recipe_from_dict

if TYPE_CHECKING:
    from pathlib import Path

    from telltune.models import LoadedModel

QUANTIZATIONS = ("nf4", "int8")


@pytest.fixture
def wide_model(tiny_model: Path, tmp_path: Path) -> Path:
    """Return a tiny model with wider layers: bitsandbytes quantizes blocks of 64 on CPUs."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = shutil.copytree(tiny_model, tmp_path / "wide")
    config = AutoConfig.from_pretrained(tiny_model)
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 32
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def quantized(toy_recipe: dict[str, Any], wide_model: Path) -> dict[str, Any]:
    """Return the toy recipe with 4-bit weights."""
    return toy_recipe | {"model": {"name": str(wide_model), "quantization": "nf4"}}


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_linear_layers_take_fewer_bytes_and_say_nearly_the_same(
    quantization: str, wide_model: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    spec = ModelSpec(name=str(wide_model), quantization=quantization)
    base, plain = load_base(spec, "fp32"), load_base(ModelSpec(name=str(wide_model)), "fp32")
    kinds = {type(module).__name__ for module in base.model.modules()}
    assert kinds & {"Linear4bit", "Linear8bitLt"}
    assert base.model.get_memory_footprint() < plain.model.get_memory_footprint()
    tokens = torch.arange(4, 24)[None]
    with torch.no_grad():
        found, wanted = (m(tokens).logits.flatten().float() for m in (base.model, plain.model))
    assert torch.corrcoef(torch.stack([found, wanted]))[0, 1] > 0.8
    assert base.revision == base_revision(spec) != plain.revision


def test_gradients_pass_through_them_after_an_answer_too(wide_model: Path) -> None:
    pytest.importorskip("bitsandbytes")
    base = load_base(ModelSpec(name=str(wide_model), quantization="nf4"), "fp32")
    tokens = torch.arange(4, 24)[None]

    def gradient() -> torch.Tensor:
        embedded = base.model.get_input_embeddings()(tokens).detach().requires_grad_()
        base.model(inputs_embeds=embedded).logits.square().sum().backward()
        return embedded.grad

    before = gradient()
    with torch.no_grad():
        base.model(tokens)
    after = gradient()
    assert before.abs().max() > 0
    torch.testing.assert_close(after, before)


def test_an_adapter_is_trained_on_them_and_answers_the_same_when_loaded_anew(
    quantized: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    out = tmp_path / "run"
    telltune.fit(quantized, out, progress=False)
    # The adapter folder has nothing of the base, and records its quantization.
    assert "nf4" in (out / "recipe.yaml").read_text()
    prompts = ["item 7 is round", "item 8 is square"]
    first, again = (telltune.predict(out, prompts) for _ in range(2))
    assert first == again


def test_layers_that_are_not_quantized_do_not_ask_for_bitsandbytes(tiny_base: LoadedModel) -> None:
    pytest.importorskip("bitsandbytes")
    from peft.tuners.lora import model as lora

    with without_bitsandbytes(tiny_base.model):
        assert not lora.is_bnb_available()
        assert not lora.is_bnb_4bit_available()
    assert lora.is_bnb_available()


def test_without_bitsandbytes_the_recipe_is_refused(
    quantized: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"quantization: nf4` needs bitsandbytes"):
        check_recipe(recipe_from_dict(quantized))


def test_weights_in_four_bits_are_not_trained_themselves(quantized: dict[str, Any]) -> None:
    pytest.importorskip("bitsandbytes")
    recipe = recipe_from_dict(quantized | {"training": {"full_parameters": True}})
    with pytest.raises(RecipeError, match="cannot be trained; remove that key"):
        check_recipe(recipe)


@pytest.mark.parametrize(
    "kind",
    [
        {"use_dora": True},
        {"use_rslora": True, "init": "gaussian", "rank_pattern": {"q_proj": 2}},
        {"modules_to_save": ["lm_head", "norm"], "layers": [1]},
    ],
    ids=["DoRA", "patterns", "modules_to_save"],
)
def test_plain_peft_answers_with_every_kind_of_adapter_on_them(
    quantized: dict[str, Any], wide_model: Path, tmp_path: Path, kind: dict[str, Any]
) -> None:
    pytest.importorskip("bitsandbytes")
    from peft import PeftModel

    recipe = recipe_from_dict(quantized | {"lora": quantized["lora"] | kind})
    base = load_base(recipe.model, "fp32")
    tokens = torch.arange(4, 24)[None]
    with torch.no_grad():
        plain = base.model(tokens).logits
    settings = Settings(recipe, tmp_path / "out", progress=False)
    predictor = get_method("tell").run(load_task(recipe), load_general(recipe), base, settings)
    with torch.no_grad():
        trained = predictor.model(tokens).logits
        predictor.release()
        assert base.model(tokens).logits.equal(plain)
        loaded = PeftModel.from_pretrained(load_base(recipe.model, "fp32").model, tmp_path / "out")
        found = loaded.eval()(tokens).logits
    assert (trained - plain).abs().max() > 0.1
    torch.testing.assert_close(found, trained, rtol=1e-4, atol=1e-4)
