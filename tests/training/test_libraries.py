"""Kernels and engines of other libraries are handed to the Trainer, or refused in one sentence."""

from __future__ import annotations

import shutil
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch

from telltune.errors import RecipeError
from telltune.recipe import TrainingSpec, as_recipe, load_recipe
from telltune.training.libraries import check_libraries, deepspeed_config
from telltune.training.run import training_arguments

if TYPE_CHECKING:
    from pathlib import Path


def test_settings_reach_the_trainer(
    toy_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_recipe["training"] |= {"use_liger_kernel": True, "torch_compile": True}
    args = training_arguments(as_recipe(toy_recipe), tmp_path, 10)
    assert (args.use_liger_kernel, args.torch_compile) == (True, True)
    (tmp_path / "zero.json").write_text("{}")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("task: answer_kind\ntraining: {deepspeed: zero.json, kernels: off}")
    training = load_recipe(recipe).training
    assert (training.deepspeed, training.kernels) == (str(tmp_path / "zero.json"), "off")


def test_deepspeed_gets_what_the_recipe_decides(tmp_path: Path) -> None:
    (file := tmp_path / "zero.json").write_text(
        '{"zero_optimization": {"stage": 2}, "train_batch_size": "auto"}'
    )
    assert deepspeed_config(str(file)) == {
        "zero_optimization": {"stage": 2},
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        # Without it, DeepSpeed would not clip gradients.
        "gradient_clipping": "auto",
    }


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the packages are installed."""
    for name in ("liger_kernel", "deepspeed"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, origin="somewhere")
        monkeypatch.setitem(sys.modules, name, module)


def refusal(**training: Any) -> str:
    with pytest.raises(RecipeError) as error:
        check_libraries(TrainingSpec(**training))
    return str(error.value)


@pytest.mark.parametrize("key", ["use_liger_kernel", "torch_compile"])
def test_own_fast_paths_exclude_other_kernels(key: str) -> None:
    assert "set `training.kernels: off`" in refusal(**{key: True})


def test_missing_packages_and_devices_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "needs a C++ compiler" in refusal(torch_compile=True, kernels="off")
    for name in ("liger_kernel", "deepspeed"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pip install liger-kernel" in refusal(use_liger_kernel=True, kernels="off")
    assert "pip install deepspeed" in refusal(deepspeed="zero.json")


def test_settings_that_make_no_sense_are_refused(
    installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "needs a GPU" in refusal(use_liger_kernel=True, kernels="off")
    file = tmp_path / "zero.json"
    assert "cannot be read as a configuration" in refusal(deepspeed=str(file))
    for wrong in ("{}", "[]", '{"zero_optimization": 2}'):
        file.write_text(wrong)
        assert "with zero_optimization.stage" in refusal(deepspeed=str(file))
    file.write_text('{"zero_optimization": {"stage": 0}}')
    assert "has ZeRO stage 0; use 1 or 2" in refusal(deepspeed=str(file))
    file.write_text(
        '{"zero_optimization": {"stage": 2}, "train_batch_size": 8, "optimizer": {"type": "Adam"}}'
    )
    assert "sets train_batch_size, optimizer, which the recipe decides" in refusal(
        deepspeed=str(file)
    )
    file.write_text('{"zero_optimization": {"stage": 3}}')
    assert "use stage 1 or 2, or FSDP" in refusal(deepspeed=str(file))
    file.write_text('{"zero_optimization": {"stage": 2}}')
    assert "start them with torchrun" in refusal(deepspeed=str(file))
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_libraries(TrainingSpec(deepspeed=str(file)))
    assert "`training.source_weights`" in refusal(deepspeed=str(file), source_weights="alf1")
