"""Adding an adapter to a base model, and reading and setting the trained weights."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from telltune.errors import RecipeError
from telltune.models import LoadedModel, adapter_targets, named_layers, without_bitsandbytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from telltune.recipe import LoraSpec, Recipe


def add_lora(base: LoadedModel, spec: LoraSpec, seed: int) -> Any:
    """Wrap the base in a new LoRA adapter (arXiv 2106.09685), initialized with `seed`.

    `take_off` removes it and restores the base. If `spec.init` changes the base's weights, the
    original ones stay in memory until then, or until `rebase`.

    Raises:
        RecipeError: If `spec` names layers that do not exist or that PEFT does not adapt.
    """
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import set_seed
    from transformers.pytorch_utils import Conv1D

    set_seed(seed)
    targets = adapter_targets(named_layers(base.model), spec)
    # PEFT warns of a conversion that `rebase` does itself, and of tied weights that are trained
    # apart, which are saved and merged apart.
    for text in ("Using Rank-Stabilized LoRA with rank_pattern", "Model has `tie_word_embeddings"):
        warnings.filterwarnings("ignore", text)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]
        lora_dropout=spec.dropout,
        target_modules=targets,
        layers_to_transform=spec.layers,
        rank_pattern=dict(spec.rank_pattern),
        alpha_pattern=dict(spec.alpha_pattern),
        use_dora=spec.use_dora,
        use_rslora=spec.use_rslora,
        init_lora_weights=True if spec.init == "default" else spec.init,  # type: ignore[arg-type]
        modules_to_save=spec.modules_to_save,
        # GPT-2 stores its weights transposed.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in base.model.modules()),
        task_type="CAUSAL_LM",
    )
    own = {}
    if spec.changes_base:
        own = {id(p): (p, p.data) for p in base.model.parameters()}
        for weight, values in own.values():
            # OLoRA changes a weight in place.
            weight.data = values.clone()
    try:
        with without_bitsandbytes(base.model):
            model: Any = get_peft_model(base.model, config)
        # Adapter folders get telltune's card. PEFT's takes longer to write than the weights.
        model.create_or_update_model_card = _write_no_card
        if spec.changes_base:
            _keep_own_weights(model, own, spec)
    except (ValueError, TypeError, RuntimeError) as error:
        # From the inside out, because adapters of experts are nested.
        for name, module in reversed(list(base.model.named_modules())):
            if isinstance(module, BaseTunerLayer):
                layer: Any = module
                base.model.set_submodule(name, layer.base_layer)
        for weight, values in own.values():
            weight.data = values
        reason = " ".join(str(error).split())[:300]
        raise RecipeError(f"lora: PEFT cannot add this adapter: {reason}") from None
    return model


def _write_no_card(output_dir: str) -> None:
    """Take the place of PEFT's method that writes a model card."""


def _lora_layers(model: Any) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _keep_own_weights(model: Any, own: Mapping[int, tuple[Any, Tensor]], spec: LoraSpec) -> None:
    """Keep the base's own weight and the first factors in each layer whose weight was changed.

    Raises:
        ValueError: `spec.init` is wrong for a layer.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    changed = set()
    for layer in _lora_layers(model):
        weight = getattr(layer.base_layer, "weight", None)
        allowed = nn.Linear if spec.init == "olora" else (nn.Linear, Conv1D)
        uses = sum(weight is each for _, each in model.named_parameters(remove_duplicate=False))
        if not isinstance(layer.base_layer, allowed) or uses > 1:
            raise ValueError(
                f"`init: {spec.init}` does not support {type(layer.base_layer).__name__} layers or "
                "shared weights"
            )
        down, up = (factor["default"].weight for factor in (layer.lora_A, layer.lora_B))
        if len(down) < layer.r["default"]:
            raise ValueError(
                f"rank {layer.r['default']} is above {len(down)}, the size of the smallest layer"
            )
        layer.start = own[id(weight)][1], down.detach().clone(), up.detach().clone()
        changed.add(id(weight))
    for place, (weight, values) in own.items():
        if place not in changed:
            weight.data = values


def rebase(model: Any) -> None:
    """Express a trained adapter relative to the base's own weights, and restore these.

    Afterwards the adapter is an ordinary LoRA adapter of twice the rank. With W' = W - s B0 A0 the
    weight that `lora.init` left in the base, W' + s B A = W + s [B, -B0] [A; A0] (as PEFT's
    `path_initial_model_for_weight_conversion`, which drops DoRA's magnitudes). Other models are
    unchanged.
    """
    import torch
    from torch import nn

    started = [layer for layer in _lora_layers(model) if hasattr(layer, "start")]
    if not started:
        return
    config = model.peft_config["default"]
    # The scale alpha / rank, or alpha / sqrt(rank), stays the same.
    grown = 2**0.5 if config.use_rslora else 2
    for layer in started:
        weight, down, up = layer.start
        below, above = layer.lora_A["default"], layer.lora_B["default"]
        below.weight = nn.Parameter(torch.cat([below.weight.detach(), down]))
        above.weight = nn.Parameter(torch.cat([above.weight.detach(), -up], 1))
        below.out_features = above.in_features = len(below.weight)
        layer.base_layer.weight.data = weight
        del layer.start
        layer.r["default"] *= 2
        layer.lora_alpha["default"] *= grown
    config.r *= 2
    config.lora_alpha *= grown
    config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    config.alpha_pattern = {name: grown * alpha for name, alpha in config.alpha_pattern.items()}
    config.init_lora_weights = True


@contextmanager
def borrowing(model: Any) -> Iterator[None]:
    """Remove the adapter, if there is one, from its base on exit, also after an error."""
    try:
        yield
    finally:
        take_off(model)


def take_off(model: Any) -> None:
    """Remove the adapter from its base, and restore it; a model without one is unchanged."""
    from peft import PeftModel
    from peft.utils import ModulesToSaveWrapper

    if not isinstance(model, PeftModel):
        return
    for layer in _lora_layers(model):
        if hasattr(layer, "start"):
            layer.base_layer.weight.data = layer.start[0]
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            # PEFT would leave the trained copy of an active module in the base.
            module.set_adapter([])
    model.unload()


def trained_parameters(model: Any) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def trained_bytes(model: Any) -> int:
    """Return the size of the trained parameters in bytes."""
    return sum(weight.nbytes for weight in trained_parameters(model).values())


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

    named = {name: weight.detach() for name, weight in trained_parameters(model).items()}
    if not any(isinstance(value, DTensor) for value in named.values()):
        return None
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).cpu()
        for name, value in named.items()
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
