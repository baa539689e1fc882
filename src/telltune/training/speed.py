"""Cache of the training speed of this machine for each model shape.

The cache has one JSON file per shape, with measurements of the last fits, or of a calibration if
there was no fit yet. The shape includes everything that speed depends on, so a record is valid only
for its own shape.
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
from telltune.training.step_flops import flop, step_work
from telltune.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from telltune.models import ModelShape
    from telltune.recipe import Recipe
    from telltune.training.callbacks import Stopwatch
    from telltune.training.training_data import TrainingData

__all__ = ["Speed", "learn", "recall", "remember", "training_shape"]

# Other work can only slow a fit down, so the fastest of the last fits is the best estimate. Few
# fits are kept, so that a lasting slowdown is noticed.
_KEPT = 3


@dataclass(frozen=True)
class Speed:
    """Measured training speed of a machine.

    Attributes:
        seconds_per_tflop: Seconds of forward and backward per 10^12 FLOP, as in `work.flop`.
        step_seconds: Other time of an optimizer step in seconds, e.g. for the update and the log.
        start_seconds: Time of a fit outside of its steps in seconds: loading, setup, saving.
        packed: Whether examples share rows.
    """

    seconds_per_tflop: float
    step_seconds: float
    start_seconds: float
    packed: bool


def training_shape(model: ModelShape, recipe: Recipe) -> dict[str, Any]:
    """Return everything that training speed depends on, except the amount of data.

    Models of the same architecture and size have the same shape, regardless of their weights.
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
                "layers": lora.layers,
                "rank_pattern": lora.rank_pattern,
                "use_dora": lora.use_dora,
                "modules_to_save": lora.modules_to_save,
            }
        ),
        "precision": str(compute_dtype(training.precision)),
        "micro_batch_tokens": training.micro_batch_tokens,
        "kernels": training.kernels,
        "gradient_checkpointing": training.gradient_checkpointing,
    }


def recall(shape: dict[str, Any]) -> Speed | None:
    """Return the stored speed of a shape, from fits if possible; None if there is no record."""
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
    data: TrainingData,
    model: ModelShape,
    recipe: Recipe,
    packed: bool,
    own_prompts: bool = False,
    **seconds: float,
) -> None:
    """Compute the speed of training from measured steps with known examples, and store it.

    Args:
        watch: Stopwatch of the run.
        source: Kind of run.
        steps: Number, from 0, and examples of each step. Steps that were not measured are skipped,
            and so is the first measured one, which includes one-time work. That work is added
            to `setup_seconds`.
        data: Training data.
        model: Sizes of the model.
        recipe: Recipe of the run.
        packed: Whether examples shared rows.
        own_prompts: As in `step_work`.
        seconds: Further values to store, as in `remember`.
    """
    settings = recipe.training
    first, *others = watch.steps
    seen = others or [first]
    # One-time work of the first step, such as compiling kernels, is a part of every fit's start.
    once = watch.steps[first].whole - max(watch.steps[number].whole for number in seen)
    seconds["setup_seconds"] = seconds.get("setup_seconds", 0.0) + max(0.0, once)
    rates = []
    for number, examples in steps:
        if number in seen:
            work = step_work(
                examples,
                data.task,
                data.general,
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
    """Add measurements to the record of a shape.

    Args:
        shape: Shape from `training_shape`.
        source: Kind of run.
        packed: Whether examples share rows; None if this was not measured.
        values: `seconds_per_tflop`, `step_seconds`, `setup_seconds` (time of training outside of
            its steps) and `load_seconds` (time of a fit outside of training).
    """
    # A finished fit must not fail because the record for later forecasts cannot be written.
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
    """Read a record; empty if there is no readable one."""
    stored = read_cached_json(path)
    return stored if isinstance(stored, dict) else {}


def _processor() -> str:
    """Return the name of the processor, which Python does not provide on Linux."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
