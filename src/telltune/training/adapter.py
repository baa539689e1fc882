"""Adding an adapter to a base model, and reading and setting the trained weights."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from telltune.errors import RecipeError
from telltune.models import adapter_targets, named_layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from telltune.models import LoadedModel
    from telltune.recipe import LoraSpec, Recipe

__all__ = [
    "add_lora",
    "borrowing",
    "set_trained_weights",
    "take_off",
    "trainable",
    "trained_bytes",
    "trained_weights",
    "whole_weights",
]


def add_lora(base: LoadedModel, spec: LoraSpec, seed: int) -> Any:
    """Wrap the base in a new LoRA adapter (arXiv 2106.09685), initialized with `seed`.

    Raises:
        RecipeError: If `spec` names layers that do not exist or that PEFT does not adapt.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed
    from transformers.pytorch_utils import Conv1D

    set_seed(seed)
    targets = adapter_targets(named_layers(base.model), spec.target_modules)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]
        lora_dropout=spec.dropout,
        target_modules=targets,
        # GPT-2 stores its weights transposed.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in base.model.modules()),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(base.model, config)
    except ValueError as error:
        reason = " ".join(str(error).split())[:300]
        raise RecipeError(f"lora.target_modules: PEFT cannot adapt them: {reason}") from None


@contextmanager
def borrowing(model: Any) -> Iterator[None]:
    """Remove the adapter from its base on exit, also after an error.

    Args:
        model: Base model with an adapter; a model without one is unchanged.
    """
    try:
        yield
    finally:
        take_off(model)


def take_off(model: Any) -> None:
    """Remove the adapter from its base; a model without one is unchanged."""
    getattr(model, "unload", lambda: None)()


def trained_bytes(model: Any) -> int:
    """Return the size of the trainable weights in bytes."""
    return sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)


def trainable(base: LoadedModel, recipe: Recipe) -> Any:
    """Prepare a base for training as the recipe says, initialized with the recipe's seed."""
    from transformers import set_seed

    if recipe.training.full_parameters:
        set_seed(recipe.seed)
        model: Any = base.model.requires_grad_(True)
    else:
        model = add_lora(base, recipe.lora, recipe.seed)
    return model


def trained_weights(model: Any) -> dict[str, Tensor]:
    """Copy the trained weights to the CPU, e.g. as the start of another run.

    Returns:
        Weights of the adapter by name, or all weights of a model without one.
    """
    import torch

    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in _trained(model).items()
    }


def _trained(model: Any) -> dict[str, Tensor]:
    from peft import PeftModel, get_peft_model_state_dict

    if isinstance(model, PeftModel):
        found: dict[str, Tensor] = get_peft_model_state_dict(model)
        return found
    # Tied weights are listed once, under one name.
    return dict(model.named_parameters())


def whole_weights(model: Any) -> dict[str, Tensor] | None:
    """Gather the trained weights of a model that FSDP shards; all processes must call this.

    Returns:
        Weights by name, on the CPU; None if the model is not sharded.
    """
    from torch.distributed.tensor import DTensor

    named = [(n, p.detach()) for n, p in model.named_parameters() if p.requires_grad]
    if not any(isinstance(value, DTensor) for _, value in named):
        return None
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).cpu()
        for name, value in named
    }


def set_trained_weights(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Copy weights from `trained_weights` into a new adapter or a full model.

    Raises:
        RecipeError: If their shapes or layers differ.
    """
    import torch
    from peft import PeftModel, set_peft_model_state_dict

    own = _trained(model)
    if {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in weights.items()}:
        raise RecipeError(
            "the initial weights have other layers or another rank than this run; use the same "
            "`model`, `lora` and `training.full_parameters` for both."
        )
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, dict(weights))
        return
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])
