"""A base that was borrowed for training is restored, also after errors."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from transformers import TrainerCallback

from telltune.data.task import load_task
from telltune.fitting import trained_method
from telltune.fitting.build_plan import build_run_plan
from telltune.fitting.model_info import ModelInfo
from telltune.fitting.protocol import Settings
from telltune.methods.registry import get_method
from telltune.models import load_base
from telltune.recipe import as_recipe
from telltune.training.run import TrainingOptions, train

if TYPE_CHECKING:
    from pathlib import Path

    from telltune.fitting.protocol import AdapterMethod
    from telltune.models import LoadedModel


class Raises(TrainerCallback):
    """Callback that raises an error during training."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            raise self.error


def state(base: LoadedModel) -> dict[str, Any]:
    """Return hashes of the weights by name, types of modules, and number of hooks."""
    model = base.model
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in model.modules()]
    return {
        "weights": {
            name: hashlib.sha256(w.detach().numpy().tobytes()).hexdigest()
            for name, w in model.state_dict().items()
        },
        "modules": [(name, type(module)) for name, module in model.named_modules()],
        "hooks": sum(map(len, hooks)),
    }


@pytest.fixture
def sft() -> AdapterMethod:
    method: Any = get_method("sft")
    return method


@pytest.mark.parametrize("full", [False, True], ids=["LoRA", "full parameters"])
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_training_that_fails_leaves_the_base_as_it_was(
    toy_recipe: dict[str, Any], sft: AdapterMethod, error: BaseException, *, full: bool
) -> None:
    training = toy_recipe["training"] | {"full_parameters": full, "gradient_checkpointing": True}
    recipe = as_recipe(toy_recipe | {"training": training})
    base = load_base(recipe.model, "fp32", trainable=full)
    before = state(base)
    known = ModelInfo.of(base.model.config, base.tokenizer)
    plan = build_run_plan(sft, load_task(recipe), None, known, recipe)
    with pytest.raises(type(error)):
        train(base, plan.recipe, plan, TrainingOptions(callbacks=[Raises(error)]))
    assert state(base) == before


def test_an_adapter_that_cannot_be_saved_leaves_the_base_as_it_was(
    toy_recipe: dict[str, Any],
    sft: AdapterMethod,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = as_recipe(toy_recipe)
    base = load_base(recipe.model, "fp32")
    before = state(base)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(trained_method, "save_adapter", full)
    with pytest.raises(OSError, match="no space"):
        sft.run(load_task(recipe), None, base, Settings(recipe, tmp_path / "out", progress=False))
    assert state(base) == before


def test_a_predictor_gives_the_base_back_where_asking_it_fails(
    toy_recipe: dict[str, Any], sft: AdapterMethod
) -> None:
    recipe = as_recipe(toy_recipe)
    base = load_base(recipe.model, "fp32")
    before = state(base)
    predictor = sft.run(load_task(recipe), None, base, Settings(recipe, progress=False))
    assert state(base) != before
    with pytest.raises(ZeroDivisionError), predictor:
        1 / len(predictor.predict([]))
    assert state(base) == before
