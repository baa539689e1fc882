"""Each kind of adapter ends as it was trained: in plain PEFT, merged, resumed, and off the base."""

from __future__ import annotations

import hashlib
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    TrainerCallback,
)

import telltune
from telltune.checked_run import check_recipe
from telltune.data.task import load_general, load_task
from telltune.errors import RecipeError
from telltune.fitting.build_plan import build_run_plan
from telltune.fitting.model_info import ModelInfo
from telltune.fitting.protocol import Settings
from telltune.methods.registry import get_method
from telltune.models import load_base
from telltune.recipe import LoraSpec, as_recipe
from telltune.training.adapter import add_lora, borrowing, rebase
from telltune.training.run import TrainingOptions, train
from telltune.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from telltune.models import LoadedModel

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "DoRA": {"use_dora": True},
    "orthogonal": {"init": "orthogonal"},
    "PiSSA by a fast decomposition": {"init": "pissa_niter_4"},
    "OLoRA": {"init": "olora"},
    "rsLoRA by patterns": {
        "use_rslora": True,
        "init": "gaussian",
        "layers": [1],
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\..*_proj": 6},
        "alpha_pattern": {"down_proj": 3},
    },
    "modules_to_save": {"modules_to_save": ["lm_head", "embed_tokens", "norm"]},
    "everything, from PiSSA": {
        "use_dora": True,
        "use_rslora": True,
        "init": "pissa",
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {"q_proj": 3},
        "modules_to_save": ["lm_head"],
    },
}
IDS = torch.arange(3, 40)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits.float()
    return found


class Last(TrainerCallback):
    """Keeps the logits with which training ends; `stop` ends it after a step, as a kill would."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.stop:
            raise KeyboardInterrupt

    def on_train_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        self.logits = logits(found["model"])


def state(base: LoadedModel) -> list[tuple[str, str]]:
    """Return each module's name and type, and the hash of each weight."""
    weights = base.model.state_dict().items()
    kept = [(n, hashlib.sha256(w.view(torch.uint8).numpy()).hexdigest()) for n, w in weights]
    return kept + [(name, type(module).__name__) for name, module in base.model.named_modules()]


@pytest.fixture
def with_lora(toy_recipe: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Return a function that makes a recipe with a kind of adapter."""

    def made(kind: dict[str, Any], **training: Any) -> dict[str, Any]:
        settings = toy_recipe["training"] | {"save_steps": 2} | training
        return toy_recipe | {
            "task": toy_recipe["task"] | {"max_examples": 12},
            "mixture": {"leverage_ratio": 1.0, "passes": 1},
            "lora": toy_recipe["lora"] | kind,
            "training": settings,
        }

    return made


@pytest.fixture
def run() -> Callable[..., Any]:
    """Return a function that fits a recipe on a base."""

    def run(base: LoadedModel, values: dict[str, Any], out: Path | None, last: Last) -> Any:
        recipe = as_recipe(values)
        settings = Settings(recipe, out, progress=False, callbacks=[last])
        return get_method("tell").run(load_task(recipe), load_general(recipe), base, settings)

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_peft_and_the_merged_model_give_the_logits_that_training_ended_with(
    tiny_model: Path,
    tiny_base: LoadedModel,
    with_lora: Callable[..., dict[str, Any]],
    run: Callable[..., Any],
    tmp_path: Path,
    kind: str,
) -> None:
    from peft import PeftModel

    plain, before = logits(tiny_base.model), state(tiny_base)
    last = Last()
    predictor = run(tiny_base, with_lora(KINDS[kind]), tmp_path / "out", last)
    assert (last.logits - plain).abs().max() > 0.1
    torch.testing.assert_close(logits(predictor.model), last.logits, rtol=1e-4, atol=1e-4)
    answers = predictor.predict(load_task(as_recipe(with_lora({}))).dev)
    predictor.release()
    assert state(tiny_base) == before

    load = AutoModelForCausalLM.from_pretrained
    loaded = PeftModel.from_pretrained(load(tiny_model), tmp_path / "out")
    torch.testing.assert_close(logits(loaded), last.logits, rtol=1e-4, atol=1e-4)
    telltune.export(tmp_path / "out", "merge", tmp_path / "merged", progress=False)
    merged = logits(load(tmp_path / "merged"))
    torch.testing.assert_close(merged, last.logits, rtol=1e-4, atol=1e-4)
    questions = [e.prompt for e in load_task(as_recipe(with_lora({}))).dev]
    assert telltune.predict(tmp_path / "out", questions) == answers
    assert all(check.held is not False for check in verify(tmp_path / "out").checks)


@pytest.mark.parametrize(
    "kind", ["DoRA", "rsLoRA by patterns", "modules_to_save", "everything, from PiSSA"]
)
def test_fast_paths_train_the_same(
    tiny_base: LoadedModel,
    with_lora: Callable[..., dict[str, Any]],
    run: Callable[..., Any],
    kind: str,
) -> None:
    found = []
    for kernels in ("auto", "off"):
        last = Last()
        run(tiny_base, with_lora(KINDS[kind], kernels=kernels), None, last).release()
        found.append(last.logits)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("kind", ["DoRA", "PiSSA by a fast decomposition", "modules_to_save"])
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    tiny_base: LoadedModel,
    with_lora: Callable[..., dict[str, Any]],
    run: Callable[..., Any],
    tmp_path: Path,
    kind: str,
) -> None:
    recipe = with_lora(KINDS[kind])
    whole, resumed = Last(), Last()
    before = state(tiny_base)
    run(tiny_base, recipe, tmp_path / "whole", whole).release()
    with pytest.raises(KeyboardInterrupt):
        run(tiny_base, recipe, tmp_path / "out", Last(stop=5))
    assert state(tiny_base) == before
    run(tiny_base, recipe, tmp_path / "out", resumed).release()
    torch.testing.assert_close(resumed.logits, whole.logits, rtol=1e-5, atol=1e-5)


def test_one_of_two_tied_layers_is_trained_saved_and_merged_alone(
    tiny_model: Path,
    with_lora: Callable[..., dict[str, Any]],
    run: Callable[..., Any],
    tmp_path: Path,
) -> None:
    from peft import PeftModel

    load = AutoModelForCausalLM.from_pretrained
    tied = shutil.copytree(tiny_model, tmp_path / "tied")
    config = AutoConfig.from_pretrained(tiny_model, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(tied)
    for name in ("lm_head", "embed_tokens"):
        last = Last()
        recipe = with_lora({"modules_to_save": [name]}) | {"model": str(tied)}
        out, merged = tmp_path / name, tmp_path / f"{name}-merged"
        run(load_base(as_recipe(recipe).model, "fp32"), recipe, out, last)
        telltune.export(out, "merge", merged, progress=False)
        loaded = logits(PeftModel.from_pretrained(load(tied), out))
        torch.testing.assert_close(loaded, last.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(logits(load(merged)), last.logits, rtol=1e-4, atol=1e-4)


def test_modules_are_not_trained_in_half_precision(
    tiny_base: LoadedModel, with_lora: Callable[..., dict[str, Any]]
) -> None:
    """The steps of the optimizer are smaller than the spacing of numbers around 1 in bf16."""
    recipe = as_recipe(with_lora({"modules_to_save": ["norm"]}, precision="bf16"))
    known = ModelInfo.of(tiny_base.model.config, tiny_base.tokenizer)
    method: Any = get_method("sft")
    with pytest.raises(RecipeError, match=r"needs `training\.precision: fp32`"):
        build_run_plan(method, load_task(recipe), None, known, recipe)


@pytest.mark.parametrize("kind", ["DoRA", "PiSSA by a fast decomposition"])
def test_in_half_precision_dev_data_are_looked_at_and_peft_loads_the_adapter(
    tiny_model: Path,
    with_lora: Callable[..., dict[str, Any]],
    run: Callable[..., Any],
    tmp_path: Path,
    kind: str,
) -> None:
    from peft import PeftModel

    values = with_lora(KINDS[kind], precision="bf16", early_stopping=True)
    base = load_base(as_recipe(values).model, "bf16")
    before = state(base)
    predictor = run(base, values, tmp_path / "out", Last())
    found = logits(predictor.model)
    predictor.release()
    assert state(base) == before
    loaded = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    again = logits(PeftModel.from_pretrained(loaded, tmp_path / "out"))
    torch.testing.assert_close(again, found, rtol=0.05, atol=0.05)


REFUSED = {
    "an odd rank": ({"init": "orthogonal", "rank": 3}, "rank to be even"),
    "a rank above the size of a layer": ({"init": "pissa", "rank": 20}, "rank 20 is above 16"),
    "an embedding": (
        {"init": "pissa", "target_modules": ["q_proj", "embed_tokens"]},
        "`init: pissa` does not support Embedding layers",
    ),
    "a layer that is not there": ({"layers": [0, 2]}, r"lora\.layers: .* no layer 2 .* is 1\."),
    "layers of an expression": (
        {"layers": [0], "target_modules": r".*q_proj"},
        r"lora\.layers: PEFT does not combine it",
    ),
    "a pattern that fits nothing": (
        {"rank_pattern": {"c_attn": 2}},
        r"lora\.rank_pattern: `c_attn` matches no layer",
    ),
    "a pattern of layers without adapter": (
        {"target_modules": ["q_proj"], "alpha_pattern": {"k_proj": 2}},
        r"lora\.alpha_pattern: `k_proj` matches no layer .* are `q_proj`",
    ),
    "a pattern of an excluded layer": (
        {"layers": [0], "rank_pattern": {r"layers\.1\.mlp\.down_proj": 2}},
        r"lora\.rank_pattern: .* matches no layer",
    ),
    "a broken pattern": ({"alpha_pattern": {"(q": 2}}, "is not a valid regular expression"),
    "no module of the model": ({"modules_to_save": ["lm_head", "score"]}, "`score` is no mod"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_the_model_is_one_sentence_and_the_base_stays_as_it_was(
    tiny_base: LoadedModel, what: str
) -> None:
    values, message = REFUSED[what]
    before = state(tiny_base)
    with pytest.raises(RecipeError, match=message) as error:
        add_lora(tiny_base, LoraSpec(**values), seed=0)
    assert "\n" not in str(error.value)
    assert state(tiny_base) == before


@pytest.mark.parametrize(("init", "refused"), [("pissa", False), ("olora", True)])
def test_gpt2_stores_weights_transposed(init: str, *, refused: bool) -> None:
    config = GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=2)
    base: Any = SimpleNamespace(model=GPT2LMHeadModel(config).requires_grad_(False))
    before, plain = state(base), logits(base.model)
    if refused:
        with pytest.raises(RecipeError, match="`init: olora` does not support Conv1D layers"):
            add_lora(base, LoraSpec(init=init), seed=0)
    else:
        model = add_lora(base, LoraSpec(init=init), seed=0)
        with borrowing(model):
            torch.testing.assert_close(logits(model), plain, rtol=1e-4, atol=1e-4)
            rebase(model)
            torch.testing.assert_close(logits(model), plain, rtol=1e-4, atol=1e-4)
    assert state(base) == before


def test_two_sources_of_initial_weights_are_refused(
    tiny_base: LoadedModel, with_lora: Callable[..., dict[str, Any]]
) -> None:
    recipe = as_recipe(with_lora({"init": "pissa"}) | {"meta": "reptile"})
    known = ModelInfo.of(tiny_base.model.config, tiny_base.tokenizer)
    method: Any = get_method("tell")
    with pytest.raises(RecipeError, match="sets the initial weights, which `meta` learns"):
        build_run_plan(method, load_task(recipe), load_general(recipe), known, recipe)
    plain = as_recipe(with_lora({"init": "pissa"}))
    plan = build_run_plan(method, load_task(plain), load_general(plain), known, plain)
    with pytest.raises(RecipeError, match="starts from those of an earlier one"):
        train(tiny_base, plan.recipe, plan, TrainingOptions(start={}))


def test_dropout_would_drop_what_a_start_takes_from_the_base(
    tiny_base: LoadedModel, with_lora: Callable[..., dict[str, Any]]
) -> None:
    known = ModelInfo.of(tiny_base.model.config, tiny_base.tokenizer)
    method: Any = get_method("sft")
    for init in ("pissa_niter_4", "olora"):
        recipe = as_recipe(with_lora({"init": init, "dropout": 0.05}))
        with pytest.raises(RecipeError, match=r"`lora\.dropout` would drop; set it to 0"):
            build_run_plan(method, load_task(recipe), None, known, recipe)


def test_a_quantized_base_takes_only_starts_that_leave_it_alone(
    with_lora: Callable[..., dict[str, Any]], tiny_model: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    model = {"name": str(tiny_model), "quantization": "nf4"}
    for init in ("pissa", "olora", "orthogonal"):
        with pytest.raises(RecipeError, match=f"`lora.init: {init}` does not support a base"):
            check_recipe(as_recipe(with_lora({"init": init}) | {"model": model}))
    check_recipe(as_recipe(with_lora({"init": "gaussian"}) | {"model": model}))


@pytest.mark.parametrize("init", ["eva", "loftq", "pissa_niter_", "Pissa"])
def test_an_unknown_start_lists_the_known_ones(
    with_lora: Callable[..., dict[str, Any]], init: str
) -> None:
    with pytest.raises(RecipeError, match=r"`lora.init`: use default, .* pissa_niter_16"):
        as_recipe(with_lora({"init": init}))
