"""Trainer callbacks for the training log, the progress bar and step times."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers import TrainerCallback

from telltune.storage import write_text, writing
from telltune.training.log import read_log

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.progress import Progress

__all__ = ["LogCallback", "Stopwatch"]


class LogCallback(TrainerCallback):
    """Write one JSON line per step to the training log, and update the progress bar.

    A resumed run first removes the lines after its checkpoint, because their steps are repeated.

    Args:
        path: Path of the log.
        progress: Progress display.
        description: Title of the bar.
        measured: Measurements of the latest step, from the trainer.
    """

    def __init__(
        self, path: Path, progress: Progress, description: str, measured: Mapping[str, Any]
    ) -> None:
        self.path = path
        self.progress = progress
        self.description = description
        self._measured = measured
        self._task: Any = None
        self._tokens = 0.0
        self._seconds = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Show the bar at the current step, and remove later lines from the log."""
        if self._task is not None:  # training restarts from a checkpoint
            self.progress.remove_task(self._task)
        self._task = self.progress.add_task(
            self.description, total=state.max_steps, completed=state.global_step, unit="step"
        )
        kept = [row for row in read_log(self.path) if row["step"] <= state.global_step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Write the line of the step."""
        if not logs:
            return
        measured = self._measured
        # A skipped step has no loss.
        names = () if "skipped" in measured else ("loss", "learning_rate", "grad_norm")
        row = {"step": state.global_step, **{name: logs.get(name) for name in names}, **measured}
        line = json.dumps(row) + "\n"
        with writing(self.path, needed=len(line)), self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            if control.should_save:
                # A checkpoint follows. After a power failure the log must not be older than it.
                file.flush()
                os.fsync(file.fileno())
        self._tokens += row["tokens"]
        self._seconds += row["seconds"]
        note = f"{self._tokens / max(self._seconds, 1e-9):,.0f} tokens/s"
        if "loss" in row:
            note = f"loss {row['loss']:.3f}, {note}"
        self.progress.update(self._task, completed=state.global_step, note=note)


class StepTime(NamedTuple):
    """Time of one optimizer step in seconds."""

    computing: float
    """Time of forward and backward."""
    whole: float
    """Time since the end of the previous step, without checkpoints."""


class Stopwatch(TrainerCallback):
    """Measure the time of every step, and optionally stop the run.

    Args:
        measured: Measurements of the latest step, from the trainer.
        stop_after: Time in seconds after which training stops at the end of a step; None for no
            limit.
    """

    def __init__(self, measured: Mapping[str, Any], stop_after: float | None = None) -> None:
        self.stop_after = stop_after
        self._measured = measured
        self.steps: dict[int, StepTime] = {}
        """Times of this process's steps, by step number from 0."""
        self._began = self._last = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Start the stopwatch."""
        self._began = self._last = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Record the time of the step, and stop training after `stop_after` seconds."""
        now = time.perf_counter()
        computing = self._measured["seconds"]
        self.steps[state.global_step - 1] = StepTime(computing, now - self._last)
        self._last = now
        if self.stop_after is not None and now - self._began > self.stop_after:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Exclude the time of the checkpoint; a run has about ten, whatever its length."""
        self.resume()

    def resume(self) -> None:
        """Exclude the time since the end of the last step."""
        self._last = time.perf_counter()
