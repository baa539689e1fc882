"""Training speed of this machine, and the FLOP of an optimizer step, which forecast a run's time.

Speeds are cached in one JSON file per shape, with measurements of the last fits, or of a
calibration if there was no fit yet. The shape includes everything that speed depends on, so a
record is valid only for its own shape.

With SmolLM2-135M on two Zen 3 cores, FLOP per second agree within 10% between steps of 16 short
task examples and steps of 16 long general ones. Token counts are less accurate.
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
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from telltune.errors import StorageError
from telltune.models import ModelShape, compute_dtype
from telltune.storage import cache_folder, read_cached_json, write_json
from telltune.training.training_data import TrainingData, step_places
from telltune.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from telltune.data.encoded import EncodedSet
    from telltune.data.mixture import Mixture
    from telltune.recipe import Recipe, TrainingSpec
    from telltune.training.callbacks import Stopwatch

# Other work can only slow a fit down, so the fastest of the last fits is the best estimate. Few
# fits are kept, so that a lasting slowdown is noticed.
_KEPT = 3
_OF_SPEED = {"rank", "target_modules", "layers", "rank_pattern", "use_dora", "modules_to_save"}
"""Keys of `lora` that speed depends on, besides whether there is dropout."""


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
        "machine": torch.cuda.get_device_name() if cuda else processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "telltune": VERSION,
        "model": {"type": model.model_type, **model.sizes},
        "lora": (
            None
            if training.full_parameters
            else lora.model_dump(include=_OF_SPEED) | {"dropout": lora.dropout > 0}
        ),
        "precision": str(compute_dtype(training.precision)),
        "micro_batch_tokens": training.micro_batch_tokens,
        "kernels": training.kernels,
        "gradient_checkpointing": training.gradient_checkpointing,
    }


def recall(shape: dict[str, Any]) -> Speed | None:
    """Return the stored speed of a shape, from fits if possible; None if there is no record."""
    stored = _stored(shape)[1]
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
        path, stored = _stored(shape)
        if packed is not None:
            stored["packed"] = packed
        lists = stored.setdefault(source, {})
        for name, value in values.items():
            lists[name] = [*lists.get(name, []), value][-_KEPT:]
        write_json(path, stored)


def _stored(shape: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Return the file of a record and its content; only the shape if it cannot be read."""
    text = json.dumps(shape, sort_keys=True)
    path = cache_folder("speed") / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    return path, {"shape": shape} | (read_cached_json(path) or {})


def processor() -> str:
    """Return the name of the processor, which Python does not read on Linux."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class Work(NamedTuple):
    """Amounts of computation in an optimizer step."""

    rows: int
    """Number of packed rows."""
    tokens: int
    """Number of tokens of the examples."""
    computed: int
    """Number of tokens of the rows; a shared prefix counts once per row."""
    responses: int
    """Number of tokens with logits."""
    pairs: int
    """Number of token pairs within examples, before the causal mask."""
    row_tokens: int
    """Number of tokens of the longest row."""
    row_responses: int
    """Largest number of tokens with logits in a row."""


def sampled_steps(
    mixture: Mixture, epochs: int, count: int
) -> list[tuple[int, list[tuple[bool, int]]]]:
    """Return up to `count` optimizer steps, spread evenly over a run.

    Returns:
        Number of each step, from 0, and its examples as (is task data, index).
    """
    total = mixture.batches_per_epoch * epochs
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)).tolist()
    return [(step, step_places(mixture, step)) for step in chosen]


def step_work(
    step: Iterable[tuple[bool, int]],
    task: EncodedSet,
    general: EncodedSet | None,
    budget: int,
    *,
    packed: bool = True,
    own_prompts: bool = False,
) -> Work:
    """Return the amounts of computation for the examples of a step.

    Args:
        step: Examples as (is task data, index).
        task: Encoded task data.
        general: Encoded general data; None if no step has general examples.
        budget: Maximum number of tokens in a row.
        packed: Whether examples share rows.
        own_prompts: Whether the prompt of each task example is scaled by its own confidence, so
            that task examples share no prefix.
    """
    from telltune.models.kernels.packing import pack

    sources, examples = [], []
    for is_task, index in step:
        source = task if is_task else general
        assert source is not None  # the mixture has no general slots without general data
        sources.append((is_task, index if own_prompts and is_task else 0))
        examples.append(source[index])
    rows = pack(examples, budget, sources=sources, together=packed)
    lengths = [len(ids) for ids, _ in examples]
    computed = [row.tokens for row in rows]
    responses = [row.targets.numel() for row in rows]
    return Work(
        rows=len(rows),
        tokens=sum(lengths),
        computed=sum(computed),
        responses=sum(responses),
        pairs=sum(length**2 for length in lengths),
        row_tokens=max(computed),
        row_responses=max(responses),
    )


def flop(work: Work, model: ModelShape, spec: TrainingSpec) -> float:
    """Return the FLOP of forward and backward.

    A product costs 2 FLOP per weight and token in each direction: forward, backward to activations,
    and, if all weights are trained, backward to weights. Only response tokens have logits.
    """
    directions = 3 if spec.full_parameters else 2
    again = 1 if spec.gradient_checkpointing else 0
    layers = 2.0 * model.layer_weights * work.computed * (directions + again)
    logits = 2.0 * model.vocabulary * model.hidden * work.responses * directions
    # Causal attention uses half of the pairs, in two products; its backward has five.
    attention = 2.0 * model.layers * model.hidden * work.pairs * (3.5 + again)
    return float(layers + logits + attention)
