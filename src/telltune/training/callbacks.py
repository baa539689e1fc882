"""Callbacks of a training run: log and progress, step times, unhealthy steps, and signals.

If a loss or gradient is not finite, or the loss spikes, the run returns to its last checkpoint and
skips the examples of that step, as in arXiv 2403.07648. A spike raises the losses of most tokens,
unlike a wrong label or a hard word. Therefore the median loss of the step's response tokens is
compared with those of the recent steps of the same run, by source. Whatever they were, the limit is
three times the loss of uniform guessing among all tokens. Skipped steps are recorded in the log and
in tell.json.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import time
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from telltune.errors import RecipeError, TellError
from telltune.signals import handling
from telltune.storage import write_text, writing
from telltune.training.hf_trainer import TrainerCallback
from telltune.training.log import read_log
from telltune.training.training_data import step_places

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from rich.progress import Progress

    from telltune.data.examples import Example
    from telltune.data.mixture import Mixture
    from telltune.training.processes import Processes


class LogCallback(TrainerCallback):
    """Write one JSON line per step to the training log, and update the progress bar.

    A resumed run first removes the lines after its checkpoint, because their steps are repeated.
    `measured` has the measurements of the latest step, from the trainer.
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
    """Measure the time of every step, and stop the run after `stop_after` seconds if given.

    `measured` has the measurements of the latest step, from the trainer.
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


SOURCES = ("general", "task")
"""Sources of examples, in the order of `Step.is_task`."""
# Maximum number of skipped steps. With more, the run itself is unhealthy.
_MOST = 3
# Uniform guessing among all tokens has a loss of ln(vocabulary). A healthy step is far below. A few
# wrong labels on which the model is confident may come close to it, which is no reason to stop.
_TIMES_GUESSING = 3
# A median loss is a spike if it is above this quantile of the recent ones by more than the margin,
# and more than double. Early in a run and in hard texts, losses vary in proportion to their size.
_RECENT = 32
_LEAST_KNOWN = 8
_QUANTILE = 0.9
_MARGIN = 1.5
"""Nats per token."""
_TIMES_RECENT = 2


class UnhealthyStepError(Exception):
    """Raised at an unhealthy step to end training.

    Attributes:
        step: Step number, from 1.
        reason: Description of the problem, for users.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"step {step}: {reason}")
        self.step, self.reason = step, reason


class HealthCallback(TrainerCallback):
    """Check the measurements of each step before they are logged and a checkpoint is written.

    Args:
        vocabulary: Vocabulary size of the model.
        measured: Measurements of the latest step, from the trainer.
    """

    def __init__(self, vocabulary: int, measured: Mapping[str, Any]) -> None:
        self.limit = _TIMES_GUESSING * math.log(vocabulary)
        """Maximum loss in nats per token."""
        self._measured = measured

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Check the loss and the gradient of the step.

        Raises:
            UnhealthyStepError: If the step is unhealthy.
        """
        if not logs or "loss" not in logs:
            return
        for name, value in (("loss", logs["loss"]), ("gradient", logs.get("grad_norm"))):
            if value is not None and not math.isfinite(value):
                raise UnhealthyStepError(state.global_step, f"the {name} is {value}")
        for source in SOURCES:
            loss = self._measured.get(f"loss_{source}", 0.0)
            if loss > self.limit:
                raise UnhealthyStepError(
                    state.global_step,
                    f"the loss of {source} data is {loss:.1f} nats per token, more than "
                    f"{_TIMES_GUESSING} times that of uniform guessing",
                )
        # The history is part of checkpoints, so a resumed run compares with the same steps.
        spike = spike_of(self._measured, state.log_history[:-1])
        if spike:
            raise UnhealthyStepError(state.global_step, spike)


def spike_of(measured: Mapping[str, float], history: Sequence[Mapping[str, float]]) -> str:
    """Describe the loss spike of a step, or return "" if there is none.

    The step spikes if the median losses of all its sources that are known well enough spike.

    Args:
        measured: Measurements of the step, with `median_task` and `median_general` in nats per
            token, or one of them.
        history: Measurements of the steps before it, in order.
    """
    found = []
    for source in SOURCES:
        name = f"median_{source}"
        if name not in measured:
            continue
        known = (row[name] for row in reversed(history) if name in row)
        recent = list(islice(known, _RECENT))
        if len(recent) < _LEAST_KNOWN:
            continue
        usual = float(np.quantile(recent, _QUANTILE))
        if measured[name] <= max(usual + _MARGIN, usual * _TIMES_RECENT):
            return ""
        found.append(
            f"the median loss of {source} tokens is {measured[name]:.1f} nats, but at most "
            f"{usual:.1f} in nine of ten recent steps"
        )
    return " and ".join(found)


class LeftOut:
    """Skipped steps of a run, starting with those in its log.

    `texts` are task and general data before encoding, which have the origins of examples.
    """

    def __init__(
        self, log: Path, mixture: Mixture, texts: tuple[Sequence[Example], Iterable[Example] | None]
    ) -> None:
        self.steps: dict[int, dict[str, Any]] = {
            row["step"]: row["skipped"] for row in read_log(log) if "skipped" in row
        }
        """Reason and origins of the examples of each skipped step, by step number from 1."""
        self._mixture = mixture
        self._task, self._general = texts

    def add(self, error: UnhealthyStepError) -> None:
        """Skip another step, and log a warning.

        Raises:
            RecipeError: If too many steps were skipped.
        """
        examples = self._examples(error.step)
        named = ", ".join(examples)
        if len(self.steps) == _MOST:
            before = "; ".join(
                f"step {step}: {told['reason']}, {', '.join(told['examples'])}"
                for step, told in sorted(self.steps.items())
            )
            raise RecipeError(
                f"training does not stay healthy: at step {error.step} {error.reason}, after "
                f"{_MOST} steps were already skipped. Lower training.learning_rate, or check these "
                f"examples: {named}. Skipped before: {before}."
            )
        self.steps[error.step] = {"reason": error.reason, "examples": examples}
        logging.getLogger(__name__).warning(
            "At step %d %s. Training resumes from the last checkpoint and skips the examples of "
            "this step: %s.",
            error.step,
            error.reason,
            named,
        )

    def _examples(self, step: int) -> list[str]:
        """Return the origins of a step's examples: file and line, or an index if unknown."""
        places = step_places(self._mixture, step - 1)
        wanted = {index for is_task, index in places if not is_task}
        general = {}
        # The general data may have been removed since they were encoded.
        with suppress(TellError):
            # Read only up to the last wanted example.
            seen = islice(enumerate(self._general or ()), max(wanted, default=-1) + 1)
            general = {index: example.origin for index, example in seen if index in wanted}
        origins = [
            (self._task[index].origin if is_task and self._task else general.get(index, ""))
            for is_task, index in places
        ]
        return [
            origin or f"{'task' if is_task else 'general'} example {index}"
            for origin, (is_task, index) in zip(origins, places, strict=True)
        ]


_SAID = "\n{}: stopping after this step, with a checkpoint. Repeat to stop immediately.\n"


class StopCallback(TrainerCallback):
    """End training after the step in which a process of the run receives a signal."""

    def __init__(self, together: Processes) -> None:
        self.received: int | None = None
        """Number of the received signal, or None."""
        self._together = together

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals within a context; do nothing outside of the main thread."""
        with handling(self._take):
            yield

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Request a checkpoint and the end of training if any process received a signal."""
        received = self._together.most(self.received or 0)
        if received:
            self.received = received
            control.should_save = control.should_training_stop = True

    def leave(self, step: int, steps: int) -> None:
        """End the process as the received signal would, if there was one, after `step` of `steps`.

        Raises:
            KeyboardInterrupt: On SIGINT; the command line exits with 130.
            SystemExit: On SIGTERM, with 143.
        """
        if self.received is None:
            return
        if self._together.first:
            logging.getLogger(__name__).warning(
                "Stopped after step %d of %d; run the same command to resume.", step, steps
            )
        raise _end(self.received)

    def _take(self, number: int) -> None:
        if self.received is not None:
            raise _end(number)
        self.received = number
        # Write directly, because the interrupted code may be writing to standard error. If standard
        # error is closed, an exception would end the interrupted computation.
        with suppress(OSError):
            os.write(2, _SAID.format(signal.Signals(number).name).encode())


def _end(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
