"""Calibration: train on a few rows, measure the speed, and discard the result."""

from __future__ import annotations

import logging
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from telltune.models import LoadedModel, compute_dtype, model_shape
from telltune.models.threads import shared_cores
from telltune.training.adapter import trainable
from telltune.training.callbacks import Stopwatch
from telltune.training.hf_trainer import SaveStrategy
from telltune.training.run import training_arguments
from telltune.training.speed import flop, learn, sampled_steps, step_work
from telltune.training.steps import StepSampler
from telltune.training.trainer import MixtureTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from telltune.recipe import Recipe
    from telltune.training.training_data import TrainingData

_ROWS = 6
_SECONDS = 10.0
# One-time work of the first row, such as trials of fast paths.
_FIRST_SECONDS = 3.0
# Longest row in seconds, unless one example takes longer.
_ROW_SECONDS = 3.0
# Share of the rate of matrix products that training reaches; see docs/research/performance.md.
_REACHED = 0.4


def calibrate(
    base: LoadedModel, recipe: Recipe, data: TrainingData, *, load_seconds: float
) -> None:
    """Train for a few seconds on examples from the whole run, and store the measured speed.

    How long this will take is logged first. The base must not be used afterwards, because the
    adapter stays on it. `load_seconds` is the time that loading took, as it will in a fit.
    """
    began = time.perf_counter()
    model = trainable(base, recipe)
    settings, shape = recipe.training, model_shape(base.model.config)
    rate = _REACHED * _product_rate(base.model.device, compute_dtype(settings.precision))

    def seconds(row: list[tuple[bool, int]]) -> float:
        work = step_work(row, data.task, data.general, settings.micro_batch_tokens)
        return flop(work, shape, settings) / rate

    sampler = _Rows(data, settings.micro_batch_tokens, seconds)
    # Training stops with the first row that ends after `_SECONDS`.
    _, *rows = map(seconds, sampler.rows)
    logging.getLogger(__name__).warning(
        "Measuring how fast this machine trains %s, once (about %.0f seconds).",
        recipe.model.name,
        _FIRST_SECONDS + min(sum(rows), _SECONDS + max(rows)),
    )
    measured: dict[str, Any] = {}
    watch = Stopwatch(measured, stop_after=_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        args = training_arguments(recipe, Path(folder), len(sampler))
        args.save_strategy = SaveStrategy.NO
        trainer = MixtureTrainer(
            model,
            data=data,
            sampler=sampler,
            settings=settings,
            args=args,
            callbacks=[watch],
            measured=measured,
        )
        with shared_cores():
            trainer.train()
    spent = time.perf_counter() - began
    learn(
        watch,
        "rehearsal",
        enumerate(sampler.rows),
        data=data,
        model=shape,
        recipe=recipe,
        packed=trainer.fast.packed,
        load_seconds=load_seconds,
        setup_seconds=spent - sum(step.whole for step in watch.steps.values()),
    )


class _Rows(StepSampler):
    """Steps of one row each, which are short even for a large model on a slow machine.

    Args:
        data: Training data.
        budget: Maximum number of tokens in a row.
        seconds: Function that estimates the time of a row.

    Attributes:
        rows: Examples of each row, as (is task data, index).
    """

    def __init__(
        self,
        data: TrainingData,
        budget: int,
        seconds: Callable[[list[tuple[bool, int]]], float],
    ) -> None:
        super().__init__(data.mixture, data.epochs)
        steps = [examples for _, examples in sampled_steps(data.mixture, data.epochs, _ROWS)]
        full = _first_row(steps[0], data, budget)
        tokens = step_work(full, data.task, data.general, budget).computed
        budget = min(budget, int(tokens * _ROW_SECONDS / seconds(full)))
        rows = [_first_row(step, data, budget) for step in islice(cycle(steps), _ROWS)]
        # The first step includes one-time work and is not counted, so one example is enough.
        self.rows = [rows[0][:1], *rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[list[tuple[bool, int]]]:
        return iter(self.rows)


def _product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP per second of a matrix product on a device, the best of three."""
    side = 1024
    factor = torch.ones(side, side, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        (factor @ factor)[0, 0].item()  # A GPU has computed it when the value is here.
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def _first_row(
    step: list[tuple[bool, int]], data: TrainingData, budget: int
) -> list[tuple[bool, int]]:
    """Return the first examples of a step that fit in one row, at least one."""
    count = 1
    while (
        count < len(step)
        and step_work(step[: count + 1], data.task, data.general, budget).rows == 1
    ):
        count += 1
    return step[:count]
