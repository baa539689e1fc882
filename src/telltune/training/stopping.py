"""Handling of SIGINT and SIGTERM: finish the step, save a checkpoint, and say how to resume."""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from telltune.training.processes import Processes

__all__ = ["StopCallback"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAID = "\n{}: stopping after this step, with a checkpoint. Repeat to stop immediately.\n"


class StopCallback(TrainerCallback):
    """End training after the step in which a process receives a signal.

    Args:
        together: Processes of the run. All stop after the same step, whichever gets the signal.
    """

    def __init__(self, together: Processes) -> None:
        self.received: int | None = None
        """Number of the received signal, or None."""
        self._together = together

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals within a context; do nothing outside of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._take) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Request a checkpoint and the end of training if any process received a signal."""
        received = self._together.most(self.received or 0)
        if received:
            self.received = received
            control.should_save = control.should_training_stop = True

    def leave(self, step: int, steps: int) -> None:
        """End the process as the received signal would, if there was one.

        Args:
            step: Number of the last finished step.
            steps: Number of steps of the run.

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

    def _take(self, number: int, _: Any) -> None:
        if self.received is not None:
            raise _end(number)
        self.received = number
        # Write directly, because the interrupted code may be writing to standard error. If standard
        # error is closed, an exception would end the interrupted computation.
        with suppress(OSError):
            os.write(2, _SAID.format(signal.Signals(number).name).encode())


def _end(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
