"""Calibration: train on a few rows, measure the speed, and discard the result."""

from __future__ import annotations

import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import SaveStrategy

from telltune.models import LoadedModel, model_shape
from telltune.models.threads import shared_cores
from telltune.training.adapter import trainable
from telltune.training.callbacks import Stopwatch
from telltune.training.speed import learn, sampled_steps, step_work
from telltune.training.steps import StepSampler
from telltune.training.trainer import MixtureTrainer, training_arguments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from telltune.recipe import Recipe
    from telltune.training.training_data import TrainingData

_ROWS = 6
_SECONDS = 10.0


def calibrate(
    base: LoadedModel, recipe: Recipe, data: TrainingData, *, load_seconds: float
) -> None:
    """Train for a few seconds on examples from the whole run, and store the measured speed.

    The base must not be used afterwards, because the adapter stays on it. `load_seconds` is the
    time that loading took, as it will in a fit.
    """
    began = time.perf_counter()
    model = trainable(base, recipe)
    settings = recipe.training
    sampler = _Rows(data, settings.micro_batch_tokens)
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
        model=model_shape(base.model.config),
        recipe=recipe,
        packed=trainer.fast.packed,
        load_seconds=load_seconds,
        setup_seconds=spent - sum(step.whole for step in watch.steps.values()),
    )


class _Rows(StepSampler):
    """Steps of one row each, which are short even for a large model on a slow machine.

    Attributes:
        rows: Examples of each row, as (is task data, index).
    """

    def __init__(self, data: TrainingData, budget: int) -> None:
        super().__init__(data.mixture, data.epochs)
        steps = [examples for _, examples in sampled_steps(data.mixture, data.epochs, _ROWS)]
        rows = [_first_row(step, data, budget) for step in islice(cycle(steps), _ROWS)]
        # The first step includes one-time work and is not counted, so one example is enough.
        self.rows = [rows[0][:1], *rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[list[tuple[bool, int]]]:
        return iter(self.rows)


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
