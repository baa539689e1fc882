"""Attention that is confined to each example of a packed row."""

from __future__ import annotations

import hashlib
import logging
from contextlib import contextmanager, suppress
from functools import cache, wraps
from importlib.metadata import version
from inspect import getfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed
from torch.nn import functional

from telltune.errors import StorageError
from telltune.models.kernels.attention_products import attend_by_products, suits_products
from telltune.storage import cache_folder, content_key, read_cached_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from telltune.models.kernels.layout import Layout

Verdict = TypeVar("Verdict")

NAME = "telltune_packed"
# Settings that limit how far a token sees, and the limit during a trial, whose texts are short.
_REACHES = ("sliding_window", "attention_chunk_size")
_TRIED_REACH = 4
_HALF = (torch.bfloat16, torch.float16)


class NoLayoutError(RuntimeError):
    """Raised if packed attention is called without a layout."""


@contextmanager
def attention(model: Any, name: str, function: Any) -> Iterator[None]:
    """Set the attention function of a model within a context.

    Args:
        model: Transformers model, or a PEFT model around one.
        name: Name under which transformers registers the function.
        function: Attention function with the interface of transformers' `AttentionInterface`. It
            gets no mask, because a mask over all tokens of a row would not be used.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, lambda *_, **__: None)
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before


def asks_attention(model: Any) -> bool:
    """Return whether a model uses the attention function that `attention` set.

    Some older architectures and those without attention ignore the setting. Packed attention raises
    `NoLayoutError` if it is called without a layout, which shows that it is in use.
    """
    try:
        model(input_ids=torch.zeros(1, 2, dtype=torch.int64, device=model.device), use_cache=False)
    except NoLayoutError:
        return True
    return False


def agrees(
    model: Any,
    context: AbstractContextManager[None],
    ours: Callable[[], Tensor],
    plain: Callable[[], Tensor],
) -> bool:
    """Test whether a model gives the same result with a replaced attention function.

    The result is False for a model that does not use the function; see also `reproduces`.

    Args:
        model: Model to test; it is run without dropout.
        context: Context from `attention` or `packed_attention`.
        ours: Computation inside the context.
        plain: Computation outside the context; returns the same shape.
    """

    def replaced() -> Tensor:
        with context:
            if not asks_attention(model):
                raise ValueError("it does not use the attention function")
            return ours()

    # A recurrent state passes information between tokens outside of attention.
    return not getattr(model, "_is_stateful", False) and reproduces(model, replaced, plain)


def reproduces(model: Any, ours: Callable[[], Tensor], plain: Callable[[], Tensor]) -> bool:
    """Test whether two computations with a model give the same result.

    The result is False if one raises an error. Sliding windows are shortened to four tokens, so
    that short texts show what they hide. Everything is computed in fp32, because rounding in half
    precision would hide differences, and without dropout.
    """
    was_training = model.training
    model.train(False)
    try:
        with torch.no_grad(), _in_fp32(model), _short_reach(model):
            wanted, found = plain(), ours()
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:
        logging.getLogger(__name__).info("A fast path is not used for this model: %s", error)
        return False
    finally:
        model.train(was_training)
    # Only the order of summation may differ.
    return bool(torch.allclose(found.float(), wanted.float(), rtol=1e-3, atol=1e-3))


def tried_once(trial: Callable[[Any], Verdict]) -> Callable[[Any], Verdict]:
    """Cache the result of a trial by classes and configurations, regardless of weights.

    What a model of transformers passes is also kept in the cache folder for later processes. What
    it does not pass is tried again, since memory may have been short.
    """
    known: dict[str, Verdict] = {}

    @wraps(trial)
    def verdict(model: Any) -> Verdict:
        config, generation = model.config, getattr(model, "generation_config", "")
        modules = sorted({type(module).__qualname__ for module in model.modules()})
        device = next(model.parameters()).device.type
        key = f"{type(config)} {config.to_json_string()} {generation} {modules} {device}"
        if key in known:
            return known[key]
        path = None
        # The class of any other model may change under the same name. Processes that share a model
        # must all try or none.
        alone = not (distributed.is_available() and distributed.is_initialized())
        if alone and type(config).__module__.startswith("transformers."):
            with suppress(StorageError):
                name = content_key(trial.__qualname__, key, _surroundings(trial))
                path = cache_folder("fast_paths") / f"{name}.json"
        found = path and read_cached_json(path)
        if not found:
            found = trial(model)
            if path and found:
                with suppress(StorageError):
                    write_json(path, found)
        known[key] = found
        return known[key]

    return verdict


@cache
def _surroundings(trial: Callable[[Any], object]) -> list[str]:
    """Return what the result of a trial depends on beside the model: code and processor."""
    folders = {Path(__file__).parent, Path(getfile(trial)).parent}
    files = sorted(file for folder in folders for file in folder.glob("*.py"))
    code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    packages = [f"{name} {version(name)}" for name in ("torch", "transformers", "peft")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return [code, *packages, torch.backends.cpu.get_cpu_capability(), gpu]


@contextmanager
def _in_fp32(model: nn.Module) -> Iterator[None]:
    """Run a half-precision model in fp32, with a copy of one module's weights at a time."""
    kept: dict[nn.Module, list[tuple[nn.Parameter, Tensor]]] = {}

    def widen(module: nn.Module, _: object) -> None:
        own = [p for p in module.parameters(recurse=False) if p.dtype in _HALF]
        kept[module] = [(parameter, parameter.data) for parameter in own]
        for parameter in own:
            parameter.data = parameter.data.float()

    def restore(module: nn.Module, *_: object) -> None:
        for parameter, data in kept.pop(module, ()):
            parameter.data = data

    handles = [
        handle
        for module in model.modules()
        if any(p.dtype in _HALF for p in module.parameters(recurse=False))
        for handle in (
            module.register_forward_pre_hook(widen),
            module.register_forward_hook(restore, always_call=True),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _short_reach(model: nn.Module) -> Iterator[None]:
    """Shorten the sliding windows and attention chunks of a model within a context."""
    modules = list(model.modules())
    # Some layers read the size from their configuration at each pass, others keep it.
    configs = {id(config): config for m in modules if (config := vars(m).get("config"))}
    reaches = [
        *((c, name, getattr(c, name, None)) for c in configs.values() for name in _REACHES),
        *((m, name, vars(m).get(name)) for m in modules for name in _REACHES),
    ]
    kept = [each for each in reaches if isinstance(each[2], int) and each[2] > _TRIED_REACH]
    try:
        for holder, name, _ in kept:
            setattr(holder, name, _TRIED_REACH)
        yield
    finally:
        for holder, name, reach in kept:
            setattr(holder, name, reach)


def packed_attention(model: Any) -> AbstractContextManager[None]:
    """Confine attention to the segments of the `layout` that the model is called with."""
    return attention(model, NAME, _attend)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - the interface of transformers
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    layout: Layout | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Compute causal attention within each segment and to the segments that it continues.

    Shapes: query (1, heads, tokens, width), key and value (1, key heads, tokens, width); returns
    (1, tokens, heads, width).
    """
    if layout is None:
        raise NoLayoutError
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    dropout = dropout if module.training else 0.0
    special = softcap is not None or s_aux is not None
    if special and vars(module).get("attention_dropout"):
        raise ValueError("attention with a soft cap or sinks cannot be packed with dropout")
    if special or suits_products(query, dropout):
        blocks = layout.blocks(sliding_window, query.device, limited=not special)
        if blocks is not None:
            return attend_by_products(
                query, key, value, blocks, scale, softcap=softcap, sinks=s_aux
            ), None
    tiles = layout.tiles(sliding_window, gpu=query.is_cuda)
    groups = query.shape[1] // key.shape[1]
    if query.is_cuda and groups > 1:
        # CUDA kernels with a mask need one key head per query head.
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    lengths = [tile.length for tile in tiles]
    # The gradient of one split is a single tensor; each slice would need a full-size gradient.
    queries, keys, values = (t.split_with_sizes(lengths, dim=2) for t in (query, key, value))
    parts = []
    masks = layout.masks(sliding_window, query)
    for number, (tile, mask) in enumerate(zip(tiles, masks, strict=True)):
        k, v = (
            torch.cat([*(split[i] for i in tile.before), split[number]], dim=2)
            if tile.before
            else split[number]
            for split in (keys, values)
        )
        parts.append(
            functional.scaled_dot_product_attention(
                queries[number],
                k,
                v,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scale,
                enable_gqa=k.shape[1] != query.shape[1],
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2), None
