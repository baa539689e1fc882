"""Kernels and engines of other libraries that transformers' Trainer can use."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telltune.errors import RecipeError

if TYPE_CHECKING:
    from telltune.recipe import TrainingSpec

_COMPILERS = ("g++", "clang++", "cl")
# Settings of DeepSpeed that follow from the recipe.
_DECIDED = (
    *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
    "gradient_clipping",
)


def check_libraries(spec: TrainingSpec) -> None:
    """Refuse Liger kernels, `torch.compile` and DeepSpeed where they cannot be used.

    Raises:
        RecipeError: A package or device is missing, or another setting excludes one of them.
    """
    for key in ("use_liger_kernel", "torch_compile"):
        if getattr(spec, key) and spec.kernels == "auto":
            raise RecipeError(
                f"`training.{key}` and telltune's own fast paths exclude each other; set "
                f"`training.kernels: off`, or remove `training.{key}`."
            )
    if spec.use_liger_kernel:
        _check_installed("use_liger_kernel", "liger-kernel")
        if not _has_gpu():
            raise RecipeError("`training.use_liger_kernel` needs a GPU; remove it.")
    if spec.torch_compile and not _has_gpu():
        names = [os.environ.get("CXX"), *_COMPILERS]
        if not any(shutil.which(name) for name in names if name):
            raise RecipeError(
                "`training.torch_compile` needs a C++ compiler on a CPU; install g++, or remove it."
            )
    if spec.deepspeed is not None:
        _check_deepspeed(spec, spec.deepspeed)


def _check_deepspeed(spec: TrainingSpec, file: str) -> None:
    _check_installed("deepspeed", "deepspeed")
    stage = deepspeed_config(file)["zero_optimization"]["stage"]
    if stage == 3:
        raise RecipeError(
            f"training.deepspeed: {file} asks for ZeRO stage 3, which divides the weights; use "
            "stage 1 or 2, or FSDP (see configurations/fsdp.yaml)."
        )
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise RecipeError(
            "`training.deepspeed` divides the optimizer's state between processes; start them with "
            "torchrun, or remove it."
        )
    if spec.source_weights is not None:
        raise RecipeError(
            "`training.deepspeed` does not support `training.source_weights`; remove one of them."
        )


def deepspeed_config(file: str) -> dict[str, Any]:
    """Return a configuration of DeepSpeed, completed with what the recipe decides.

    Raises:
        RecipeError: The file cannot be read, has no ZeRO stage, or decides what the recipe decides.
    """
    try:
        config: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
        stage = config["zero_optimization"]["stage"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RecipeError(
            f"training.deepspeed: {file} cannot be read as a configuration in JSON with "
            f"zero_optimization.stage: {error!r}."
        ) from None
    if stage not in (1, 2, 3):
        raise RecipeError(f"training.deepspeed: {file} has ZeRO stage {stage!r}; use 1 or 2.")
    # The Trainer replaces "auto" by the recipe's values. DeepSpeed would not clip gradients without
    # a value.
    filled = {key: config.get(key, "auto") for key in _DECIDED}
    decided = [key for key, value in filled.items() if value != "auto"]
    decided += [key for key in ("optimizer", "scheduler") if key in config]
    if decided:
        raise RecipeError(
            f"training.deepspeed: {file} sets {', '.join(decided)}, which the recipe decides; "
            "remove this from the file."
        )
    return config | filled


def _check_installed(key: str, package: str) -> None:
    found = find_spec(package.replace("-", "_"))
    # A folder such as ./deepspeed is found too, as a package without an origin.
    if found is None or found.origin is None:
        raise RecipeError(
            f"`training.{key}` needs {package}: `pip install {package}`, or remove it."
        )


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
