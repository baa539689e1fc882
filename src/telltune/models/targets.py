"""Selection of the layers that get an adapter.

PEFT's `all-linear` selects every linear layer except the output. Two kinds of models need
exceptions:

- Mixers of state-space models (Mamba and hybrids of it) read the weights of some of their layers
  directly and pass them to one fused kernel. An adapter on such a layer is never computed, and for
  some of these models PEFT refuses it.
- If the experts of a mixture of experts share one parameter, PEFT applies `all-linear` to the
  experts as well. The same holds for layers with former names of experts, e.g. shared experts. PEFT
  refuses to adapt these with dropout.
"""

from __future__ import annotations

import difflib
import inspect
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from telltune.errors import RecipeError, TellError, shown
from telltune.models.loading import load_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from telltune.recipe import LoraSpec, ModelSpec

ALL_LINEAR = "all-linear"
# Names that PEFT translates if experts that used to be separate layers share one parameter.
_EXPERTS = frozenset({"w1", "w2", "w3", "gate_proj", "up_proj", "down_proj"})


@dataclass(frozen=True)
class Layers:
    """Full names of a model's modules, grouped by whether LoRA can adapt them.

    Attributes:
        linear: Linear layers that `all-linear` selects.
        others: Layers that are adapted only if named: embeddings, convolutions, output.
        read_directly: Linear layers whose weights a state-space mixer reads directly.
        like_experts: Linear layers that PEFT treats as experts.
        rest: Modules that cannot be adapted.
        fused_experts: Whether several experts share one parameter.
    """

    linear: Sequence[str]
    others: Sequence[str]
    read_directly: Sequence[str]
    like_experts: Sequence[str]
    rest: Sequence[str]
    fused_experts: bool


def named_layers(model: nn.Module) -> Layers:
    """Group the modules of a model (on any device) by whether LoRA can adapt them."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    output: Any = getattr(model, "get_output_embeddings", lambda: None)()
    found: dict[str, list[str]] = {"linear": [], "others": [], "read_directly": [], "rest": []}
    direct = {id(layer) for layer in _read_directly(model)}
    for name, module in model.named_modules():
        if id(module) in direct:
            kind = "read_directly"
        elif isinstance(module, nn.Linear | Conv1D) and module is not output:
            kind = "linear"
        elif isinstance(module, nn.Linear | nn.Embedding | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            kind = "others"
        else:
            kind = "rest"
        if name:
            found[kind].append(name)
    # Experts in one parameter have one dimension more than the weight of a linear layer.
    fused = any(p.dim() == 3 and "experts" in name for name, p in model.named_parameters())
    experts = _like_experts(model, found["linear"]) if fused else []
    found["linear"] = [name for name in found["linear"] if name not in set(experts)]
    return Layers(**found, like_experts=experts, fused_experts=fused)


def _like_experts(model: nn.Module, names: Sequence[str]) -> list[str]:
    from peft import LoraConfig

    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:  # this version of PEFT does not translate names
        return []
    config = LoraConfig(target_modules=list(names))
    convert_peft_config_for_transformers(config, model=model, conversions=None)
    kept = set(config.target_modules or ())
    return [name for name in names if name not in kept]


def _read_directly(model: nn.Module) -> Iterator[nn.Module]:
    """Yield linear layers of state-space mixers whose weights the mixer's code reads."""
    from torch import nn

    for module in model.modules():
        # `A_log` is the decay of the state, which identifies a state-space mixer.
        if not hasattr(module, "A_log"):
            continue
        kind: Any = type(module)
        used = _weights_used(kind)
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and name in used:
                yield child


@cache
def _weights_used(kind: type) -> frozenset[str]:
    """Return the layers whose `weight` or `bias` a class uses, except for dtype and device."""
    try:
        code = inspect.getsource(kind)
    except (OSError, TypeError):  # a class without a file
        return frozenset()
    return frozenset(re.findall(r"\bself\.(\w+)\.(?:weight|bias)\b(?!\.(?:dtype|device))", code))


def layers_of(spec: ModelSpec) -> Layers | None:
    """Return the layers of a model without loading weights; None if that is not possible.

    Raises:
        ModelError: As in `load_config`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = load_config(spec)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                config, trust_remote_code=spec.trust_remote_code
            )
        return named_layers(model)
    except TellError:
        raise
    except Exception:  # raised by custom model code; layers are checked again after loading
        return None


def adapter_targets(layers: Layers, spec: LoraSpec) -> str | list[str]:
    """Return the value of PEFT's `target_modules`.

    Returns:
        `spec.target_modules`, or the names of the layers to adapt if `all-linear` does not select
        the right ones: layers must be excluded, or `spec.layers` selects some.

    Raises:
        RecipeError: If `spec` names layers that do not exist or that LoRA cannot adapt.
    """
    wanted = spec.target_modules
    adaptable = [*layers.linear, *layers.others, *layers.like_experts]
    if _is_all_linear(wanted):
        if not layers.linear:
            raise RecipeError(
                "lora.target_modules: the model has no linear layers; set "
                "training.full_parameters: true to train all its weights."
            )
        if layers.read_directly or layers.fused_experts or spec.layers is not None:
            wanted = list(layers.linear)
        adapted = list(layers.linear)
    elif isinstance(wanted, str):
        if spec.layers is not None:
            raise RecipeError(
                "lora.layers: PEFT does not combine it with a regular expression; name the layers "
                "in `lora.target_modules`, or write their numbers into the expression."
            )
        wanted = _checked_pattern(layers, wanted, adaptable)
        adapted = [name for name in adaptable if re.fullmatch(wanted, name)]
    else:
        _check_names(layers, wanted, adaptable)
        adapted = [name for name in adaptable if any(_matching(each, [name]) for each in wanted)]
    if spec.layers is not None:
        adapted = _numbered(adapted, spec.layers)
    _check_patterns(spec, adapted)
    saved = [*adaptable, *layers.read_directly, *layers.rest]
    for name in spec.modules_to_save or ():
        if not any(each.endswith(name) for each in saved):
            raise RecipeError(
                f"lora.modules_to_save: `{shown(name)}` is no module of this model; name modules "
                "such as `lm_head` or `embed_tokens`, as the model calls them."
            )
    return wanted


def _check_names(layers: Layers, wanted: list[str], adaptable: list[str]) -> None:
    direct = [name for name in wanted if _matching(name, layers.read_directly)]
    if direct:
        raise RecipeError(
            f"lora.target_modules: {_listed(direct)} cannot be adapted: this architecture reads "
            "the weights directly, so an adapter would have no effect; remove it."
        )
    missing = [name for name in wanted if not _matching(name, adaptable)]
    if layers.fused_experts:
        missing = [name for name in missing if name.rpartition(".")[2] not in _EXPERTS]
    if missing or not wanted:
        raise RecipeError(
            f"lora.target_modules: {_not_found(missing, adaptable)}; the linear layers are "
            f"{_listed(_endings(layers.linear))}."
        )


def _numbered(adapted: Sequence[str], wanted: Sequence[int]) -> list[str]:
    """Return the layers that `lora.layers` selects; raise unless every number has some."""
    # As PEFT finds the number of a layer in its name.
    found = {name: re.match(r".*?\.[^.]*\.(\d+)\.", name) for name in adapted}
    numbers = {name: int(match[1]) for name, match in found.items() if match}
    for number in wanted:
        if number not in numbers.values():
            last = max(numbers.values(), default=None)
            told = "no layer has a number" if last is None else f"the last one is {last}"
            raise RecipeError(f"lora.layers: there is no layer {number} to adapt; {told}.")
    return [name for name, number in numbers.items() if number in wanted]


def _check_patterns(spec: LoraSpec, adapted: Sequence[str]) -> None:
    """Raise unless every pattern matches the name of an adapted layer."""
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(spec, key):
            try:
                # As PEFT matches them.
                known = re.compile(rf"(.*\.)?({pattern})$")
            except re.error as error:
                raise RecipeError(
                    f"lora.{key}: `{shown(pattern)}` is not a valid regular expression: {error}."
                ) from None
            if not any(known.match(name) for name in adapted):
                raise RecipeError(
                    f"lora.{key}: `{shown(pattern)}` matches no layer with an adapter; these are "
                    f"{_listed(_endings(adapted))}."
                )


def layers_left_out(layers: Layers, wanted: str | list[str]) -> str | None:
    """Return a sentence on linear layers that `all-linear` excludes; None if it adapts all."""
    if not _is_all_linear(wanted):
        return None
    reasons = []
    if layers.read_directly:
        reasons.append(
            f"{_listed(_endings(layers.read_directly))}, whose weights this architecture reads "
            "directly, so an adapter would have no effect"
        )
    if layers.fused_experts:
        reasons.append("the experts, which are one parameter instead of linear layers")
    if layers.like_experts:
        reasons.append(
            f"{_listed(_endings(layers.like_experts))}, which PEFT cannot distinguish from experts"
        )
    if not reasons:
        return None
    return f"lora.target_modules: {ALL_LINEAR} leaves out {'; and '.join(reasons)}."


def _is_all_linear(wanted: str | list[str]) -> bool:
    return isinstance(wanted, str) and wanted.lower() == ALL_LINEAR


def _checked_pattern(layers: Layers, pattern: str, adaptable: list[str]) -> str:
    """Return the pattern; raise unless it matches adaptable layers and no other modules."""
    try:
        known = re.compile(pattern)
    except re.error as error:
        raise RecipeError(
            f"lora.target_modules: `{shown(pattern)}` is not a valid regular expression: {error}."
        ) from None
    wrong = [n for n in (*layers.rest, *layers.read_directly) if known.fullmatch(n)]
    if wrong:
        raise RecipeError(
            f"lora.target_modules: `{shown(pattern)}` matches `{wrong[0]}`, which LoRA cannot "
            "adapt; match linear layers only."
        )
    if not any(known.fullmatch(name) for name in adaptable):
        hint = f"; write [{pattern}]" if _matching(pattern, adaptable) else ""
        raise RecipeError(
            f"lora.target_modules: `{shown(pattern)}` is matched as a regular expression against "
            f"full names such as `{layers.linear[0] if layers.linear else ''}` and matches none"
            f"{hint}; the linear layers are {_listed(_endings(layers.linear))}."
        )
    return pattern


def _matching(wanted: str, names: Sequence[str]) -> list[str]:
    """Return the modules that PEFT selects for a list entry, by the end of their full names."""
    return [name for name in names if name == wanted or name.endswith(f".{wanted}")]


def _not_found(missing: list[str], adaptable: list[str]) -> str:
    if not missing:
        return "the list is empty"
    told = []
    for name in missing:
        near = difflib.get_close_matches(name, _endings(adaptable), n=1)
        told.append(f"`{shown(name)}`" + (f" (did you mean `{near[0]}`?)" if near else ""))
    verb = "names" if len(told) == 1 else "name"
    return f"{' and '.join(told)} {verb} no layer of this model that LoRA can adapt"


def _endings(names: Sequence[str]) -> list[str]:
    """Return the distinct last parts of names; a numeric part includes the part before it."""
    return sorted({re.sub(r"^.*?([^.]+(\.\d+)*)$", r"\1", name) for name in names})


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{shown(name)}`" for name in names)
