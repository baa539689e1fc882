"""Forecast of a fit's duration and memory before it starts."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from telltune.models import ModelShape, compute_dtype, load_base_of
from telltune.training.speed import Work, flop, recall, sampled_steps, step_work, training_shape

if TYPE_CHECKING:
    from telltune.fitting.run_plan import RunPlan
    from telltune.recipe import TrainingSpec

# Number of sampled steps whose rows are packed and counted; they stand for all others.
_LOOKED_AT = 48
_LIBRARIES_GIB = 0.7


@dataclass(frozen=True)
class Forecast:
    """Forecast of a fit.

    Attributes:
        computed_tokens: Number of tokens in all rows; a prefix shared within a row counts once.
        seconds: Duration of the call of `fit`; None if this machine has not trained such a model
            yet and measuring is off.
        training_seconds: Duration of the optimizer steps alone.
        memory_gib: Peak memory in GiB.
    """

    computed_tokens: int
    seconds: float | None
    training_seconds: float | None
    memory_gib: float


def forecast(
    run_plan: RunPlan,
    model: ModelShape,
    *,
    measure: bool,
    ready_seconds: float = 0.0,
) -> Forecast:
    """Forecast duration and memory of a fit from the recorded training speed of this machine.

    Args:
        run_plan: Run plan.
        model: Sizes of the model.
        measure: Whether to load the model and train for a few seconds if no speed is recorded.
        ready_seconds: Preparation time in seconds, recorded with the measurement as a part of a
            fit's start.

    Raises:
        ModelError: The model cannot be loaded.
    """
    recipe = run_plan.recipe
    shape = training_shape(model, recipe)
    speed = recall(shape)
    if speed is None and measure:
        _rehearse(run_plan, ready_seconds)
        speed = recall(shape)
    settings = recipe.training
    steps = sampled_steps(run_plan.mixture, run_plan.epochs, _LOOKED_AT)
    works = [
        step_work(
            examples,
            run_plan.task,
            run_plan.general,
            settings.micro_batch_tokens,
            packed=speed is None or speed.packed,
            own_prompts=recipe.confidence is not None and recipe.confidence.scale != "output",
        )
        for _, examples in steps
    ]
    # Scaling is by tokens rather than by steps, because steps differ in length.
    scale = run_plan.counts.trained_tokens / sum(work.tokens for work in works)
    computed = scale * sum(work.computed for work in works)
    seconds = training = None
    if speed is not None:
        tflop = sum(flop(work, model, settings) for work in works) / 1e12
        training = scale * (tflop * speed.seconds_per_tflop + len(works) * speed.step_seconds)
        if run_plan.dev is not None:
            training *= 1 + run_plan.dev.work
        seconds = speed.start_seconds + training
    memory = estimated_memory_gib(
        model,
        settings,
        row_tokens=_row_tokens(run_plan, works),
        row_responses=max(work.row_responses for work in works),
    )
    return Forecast(round(computed), seconds, training, memory)


def estimated_memory_gib(
    model: ModelShape, spec: TrainingSpec, *, row_tokens: int, row_responses: int
) -> float:
    """Return a fit's peak memory in GiB: libraries, weights, and activations of one row.

    `row_tokens` are those of the longest row, and `row_responses` the most tokens with logits in a
    row.
    """
    width = compute_dtype(spec.precision).itemsize
    weights = model.layer_weights + model.vocabulary * model.hidden
    # Trained weights are fp32, with a gradient and AdamW's two moments. Frozen weights have none.
    kept = weights * (4 * 4 if spec.full_parameters else width)
    layers, hidden = model.layers, model.hidden
    # Activations per layer and token: about 11 hidden vectors and 6 MLP vectors, as measured.
    # With checkpointing: one hidden vector per layer, and the activations of one layer at a time.
    vectors = (11 * hidden + 6 * model.mlp_width) * width
    each = layers * hidden * width + vectors if spec.gradient_checkpointing else layers * vectors
    logits = row_responses * model.vocabulary * 4 * 3
    return float((kept + row_tokens * each + logits) / 2**30 + _LIBRARIES_GIB)


def _rehearse(run_plan: RunPlan, ready_seconds: float) -> None:
    """Load the model, train on a few rows, record the speed, and release the model."""
    from telltune.training.calibration import calibrate

    recipe = run_plan.recipe
    began = time.perf_counter()
    base = load_base_of(recipe)
    seconds = ready_seconds + time.perf_counter() - began
    calibrate(base, recipe, run_plan, load_seconds=seconds)
    del base
    gc.collect()


def _row_tokens(run_plan: RunPlan, works: list[Work]) -> int:
    """Return the tokens of the longest row; unsampled rows may hold the longest example."""
    longest = max(work.row_tokens for work in works)
    if len(works) < run_plan.counts.optimizer_steps:
        longest = max(longest, run_plan.task.longest)
        if run_plan.general is not None and run_plan.counts.general_examples:
            longest = max(longest, run_plan.general.longest)
    return longest
