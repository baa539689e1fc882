"""How fast this machine trains a model of some shape, remembered from run to run.

One JSON file in the cache for each shape: what the last fits took, or, before the first of them,
a rehearsal. The shape holds all that speed depends on, so a record never answers for another.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from telltune.errors import StorageError
from telltune.models import compute_dtype
from telltune.storage import cache_folder, read_cached_json, write_json
from telltune.training.work import flop, step_work
from telltune.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from telltune.data.encoded import EncodedSet
    from telltune.models import ModelShape
    from telltune.recipe import Recipe
    from telltune.training.callbacks import Stopwatch

__all__ = ["Speed", "learn", "recall", "remember", "training_shape"]

# What else a machine does can only slow a fit down, so the quickest of a few tells best; few, so
# that a change for the worse is believed in the end.
_KEPT = 3


@dataclass(frozen=True)
class Speed:
    """What a machine was seen to do.

    Attributes:
        seconds_per_tflop: Of forward and backward, in `work.flop`'s 10^12 FLOP.
        step_seconds: What an optimizer step takes besides: the update, the log.
        start_seconds: What a fit takes besides its steps: loading, setting up, saving.
        packed: Whether the model's examples share rows.
    """

    seconds_per_tflop: float
    step_seconds: float
    start_seconds: float
    packed: bool


def training_shape(model: ModelShape, recipe: Recipe) -> dict[str, Any]:
    """All that the speed of training depends on, besides how much is trained on.

    Models of one architecture and size are one shape, whatever their weights.
    """
    import torch

    training, lora = recipe.training, recipe.lora
    cuda = torch.cuda.is_available()
    return {
        "machine": torch.cuda.get_device_name() if cuda else _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "telltune": VERSION,
        "model": {"type": model.model_type, **model.sizes},
        "lora": (
            None
            if training.full_parameters
            else {
                "rank": lora.rank,
                "target_modules": lora.target_modules,
                "dropout": lora.dropout > 0,
            }
        ),
        "precision": str(compute_dtype(training.precision)),
        "micro_batch_tokens": training.micro_batch_tokens,
        "gradient_checkpointing": training.gradient_checkpointing,
    }


def recall(shape: dict[str, Any]) -> Speed | None:
    """What is known of a shape on this machine; fits count before a rehearsal."""
    stored = _read(_path(shape))
    sources = [stored.get("fit", {}), stored.get("rehearsal", {})]

    def known(name: str) -> float | None:
        return next((min(source[name]) for source in sources if source.get(name)), None)

    rate = known("seconds_per_tflop")
    if rate is None:
        return None
    return Speed(
        rate,
        known("step_seconds") or 0.0,
        (known("load_seconds") or 0.0) + (known("setup_seconds") or 0.0),
        bool(stored.get("packed", True)),
    )


def learn(
    watch: Stopwatch,
    source: Literal["fit", "rehearsal"],
    steps: Iterable[tuple[int, list[tuple[bool, int]]]],
    *,
    task: EncodedSet,
    general: EncodedSet | None,
    model: ModelShape,
    recipe: Recipe,
    packed: bool,
    own_prompts: bool = False,
    **seconds: float,
) -> None:
    """Remember how fast training went, from steps whose examples are known.

    Args:
        watch: It saw the steps.
        source: Who trained.
        steps: Each one's number, from 0, and its examples; those that were not seen are passed
            over, and so is the first that was, in which much is done for the first time.
        task: Encoded task data.
        general: Encoded general data, or None.
        model: Its sizes.
        recipe: The run's.
        packed: Whether examples shared rows.
        own_prompts: As `step_work` takes it.
        seconds: More to remember, as `remember` takes it.
    """
    settings = recipe.training
    seen = [*watch.steps][1:] or [*watch.steps]
    rates = []
    for number, examples in steps:
        if number in seen:
            work = step_work(
                examples,
                task,
                general,
                settings.micro_batch_tokens,
                packed=packed,
                own_prompts=own_prompts,
            )
            tflop = flop(work, model, settings) / 1e12
            rates.append(watch.steps[number].computing / tflop)
    if rates:
        besides = [step.whole - step.computing for step in watch.steps.values()]
        remember(
            training_shape(model, recipe),
            source,
            packed=packed,
            seconds_per_tflop=median(rates),
            step_seconds=median(besides),
            **seconds,
        )


def remember(
    shape: dict[str, Any],
    source: Literal["fit", "rehearsal"],
    *,
    packed: bool | None = None,
    **values: float,
) -> None:
    """Add to what is known of a shape.

    Args:
        shape: From `training_shape`.
        source: Who measured.
        packed: Whether examples share rows; None where that is not what was measured.
        values: `seconds_per_tflop`, `step_seconds`, `setup_seconds` (of training, besides its
            steps) and `load_seconds` (of a fit, besides training).
    """
    # A finished fit is not to fail because a note for the next forecast cannot be written.
    with suppress(StorageError):
        path = _path(shape)
        stored = {"shape": shape} | _read(path)
        if packed is not None:
            stored["packed"] = packed
        lists = stored.setdefault(source, {})
        for name, value in values.items():
            lists[name] = [*lists.get(name, []), value][-_KEPT:]
        write_json(path, stored)


def _path(shape: dict[str, Any]) -> Path:
    text = json.dumps(shape, sort_keys=True)
    return cache_folder("speed") / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def _read(path: Path) -> dict[str, Any]:
    """A record, empty where there is none that can be read."""
    stored = read_cached_json(path)
    return stored if isinstance(stored, dict) else {}


def _processor() -> str:
    """The processor's name; Python gives none on Linux."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
