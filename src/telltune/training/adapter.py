"""Put an adapter on a base model, and read and set the weights that are trained."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from telltune.errors import RecipeError
from telltune.models import adapter_targets, named_layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from telltune.models import BaseModel
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


def add_lora(base: BaseModel, spec: LoraSpec, seed: int) -> Any:
    """Wrap the base in a fresh LoRA adapter (arXiv 2106.09685), its start drawn by `seed`.

    Raises:
        RecipeError: `spec` names layers that the model does not have or PEFT does not adapt.
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
        # GPT-2 keeps its weights the other way round.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in base.model.modules()),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(base.model, config)
    except ValueError as error:
        reason = " ".join(str(error).split())[:300]
        raise RecipeError(f"lora.target_modules: PEFT refuses them: {reason}") from None


@contextmanager
def borrowing(model: Any) -> Iterator[None]:
    """Take the adapter off its base at the end, whatever happens inside.

    Args:
        model: A base model with an adapter; one without is left as it is.
    """
    try:
        yield
    finally:
        take_off(model)


def take_off(model: Any) -> None:
    """Take the adapter off its base; a model without one is left as it is."""
    getattr(model, "unload", lambda: None)()


def trained_bytes(model: Any) -> int:
    """What the weights take that are trained."""
    return sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)


def trainable(base: BaseModel, recipe: Recipe) -> Any:
    """Make a base ready to be trained as the recipe says; its weights' start is drawn by `seed`."""
    from transformers import set_seed

    if recipe.training.full_parameters:
        set_seed(recipe.seed)
        model: Any = base.model.requires_grad_(True)
    else:
        model = add_lora(base, recipe.lora, recipe.seed)
    return model


def trained_weights(model: Any) -> dict[str, Tensor]:
    """Copy to the CPU what training changes, so that another training may begin there.

    Returns:
        By name, the weights of the adapter, or all weights of a model without one.
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
    # Tied weights have one name here.
    return dict(model.named_parameters())


def whole_weights(model: Any) -> dict[str, Tensor] | None:
    """The trained weights of a model that FSDP has spread over processes, which all call this.

    Returns:
        By name, on the CPU; None where the model itself holds all of them.
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
    """Give a fresh adapter, or a whole model, what `trained_weights` found in another one.

    Raises:
        RecipeError: They are of another shape, or of other layers.
    """
    import torch
    from peft import PeftModel, set_peft_model_state_dict

    own = _trained(model)
    if {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in weights.items()}:
        raise RecipeError(
            "the weights to begin with have other layers or another rank than this training; give "
            "both the same `model`, `lora` and `training.full_parameters`."
        )
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, dict(weights))
        return
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])
