"""What a user sees of a run, and what stays of it: the bar and training_log.jsonl."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback

if TYPE_CHECKING:
    from pathlib import Path

    from telltune.training.trainer import MixtureTrainer

__all__ = ["LogCallback", "bar"]


def bar(*, shown: bool = True) -> Progress:
    """A progress bar on standard error, so that `--json` keeps standard output to itself."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=not shown,
        refresh_per_second=2,
    )


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
        self._task = self.progress.add_task(
            self.description, total=state.max_steps, completed=state.global_step, note=""
        )
        kept = []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    break  # a line cut short by a kill; its step is done again
                if row["step"] <= state.global_step:
                    kept.append(line + "\n")
        self.path.write_text("".join(kept), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Write the step's line."""
        if not logs or "loss" not in logs or self.trainer is None:
            return
        row = {
            "step": state.global_step,
            "loss": logs["loss"],
            "learning_rate": logs.get("learning_rate"),
            "grad_norm": logs.get("grad_norm"),
            **self.trainer.step_record,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._tokens += row["tokens"]
        self._seconds += row["seconds"]
        note = f"{self._tokens / max(self._seconds, 1e-9):,.0f} tokens/s, loss {row['loss']:.3f}"
        self.progress.update(self._task, completed=state.global_step, note=note)
