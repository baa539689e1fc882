"""What listens to the training loop: the log with its bar, and a stopwatch."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers import TrainerCallback

from telltune.storage import write_text, writing
from telltune.training.log import read_log

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress

    from telltune.training.trainer import MixtureTrainer

__all__ = ["LogCallback", "Stopwatch"]


class LogCallback(TrainerCallback):
    """Writes one JSON line a step, and moves the bar.

    A resumed run first drops the lines that come after its checkpoint: their steps are done again.
    """

    def __init__(self, path: Path, progress: Progress, description: str) -> None:
        self.path = path
        self.progress = progress
        self.description = description
        self.trainer: MixtureTrainer | None = None
        """Set once the trainer exists; it holds what each step measured."""
        self._task: Any = None
        self._tokens = 0.0
        self._seconds = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Show the bar where the run stands, and cut the log there."""
        if self._task is not None:  # training goes back to a checkpoint
            self.progress.remove_task(self._task)
        self._task = self.progress.add_task(
            self.description, total=state.max_steps, completed=state.global_step, unit="step"
        )
        kept = [row for row in read_log(self.path) if row["step"] <= state.global_step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Write the step's line."""
        if not logs or "loss" not in logs or self.trainer is None:
            return
        measured = self.trainer.step_record
        # A step that was left out has no loss.
        names = () if "skipped" in measured else ("loss", "learning_rate", "grad_norm")
        row = {"step": state.global_step, **{name: logs.get(name) for name in names}, **measured}
        line = json.dumps(row) + "\n"
        with writing(self.path, needed=len(line)), self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            if control.should_save:
                # A checkpoint comes next, and the log is not to be behind it after a power cut.
                file.flush()
                os.fsync(file.fileno())
        self._tokens += row["tokens"]
        self._seconds += row["seconds"]
        note = f"{self._tokens / max(self._seconds, 1e-9):,.0f} tokens/s"
        if "loss" in row:
            note = f"loss {row['loss']:.3f}, {note}"
        self.progress.update(self._task, completed=state.global_step, note=note)


class StepTime(NamedTuple):
    """What one optimizer step took, in seconds."""

    computing: float
    """Forward and backward."""
    whole: float
    """From the end of the step before to its own, checkpoints not counted."""


class Stopwatch(TrainerCallback):
    """Times every step, and can stop the run when it has seen enough.

    Args:
        stop_after: Stop at the first step that ends so many seconds after the start; None never
            does.
    """

    def __init__(self, stop_after: float | None = None) -> None:
        self.stop_after = stop_after
        self.trainer: MixtureTrainer | None = None
        """Set once the trainer exists; it holds what each step measured."""
        self.steps: dict[int, StepTime] = {}
        """By number, from 0; of this process."""
        self._began = self._last = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Start."""
        self._began = self._last = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Note the step."""
        if self.trainer is None:
            return
        now = time.perf_counter()
        computing = self.trainer.step_record["seconds"]
        self.steps[state.global_step - 1] = StepTime(computing, now - self._last)
        self._last = now
        if self.stop_after is not None and now - self._began > self.stop_after:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Leave the checkpoint out: there are some ten in a run, whatever its length."""
        self.resume()

    def resume(self) -> None:
        """Leave out the time since the end of the last step."""
        self._last = time.perf_counter()
