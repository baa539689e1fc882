"""SIGINT and SIGTERM: the step is finished, a checkpoint written, and the way to go on is said."""

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
_SAID = "\n{}: stopping after this step, with a checkpoint. Once more stops at once.\n"


class StopCallback(TrainerCallback):
    """Ends training after the step in which the process is asked to stop.

    Args:
        together: The run's processes: all stop after the same step, whichever was asked.
    """

    def __init__(self, together: Processes) -> None:
        self.received: int | None = None
        """The signal, once there is one."""
        self._together = together

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals; outside of the main thread, where Python allows it not, do nothing."""
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
        """Ask for a checkpoint and for the end."""
        received = self._together.most(self.received or 0)
        if received:
            self.received = received
            control.should_save = control.should_training_stop = True

    def leave(self, step: int, steps: int) -> None:
        """End the process as a signal does, if there was one.

        Args:
            step: That training has got to.
            steps: In the run.

        Raises:
            KeyboardInterrupt: On SIGINT; the command line exits with 130.
            SystemExit: On SIGTERM, with 143.
        """
        if self.received is None:
            return
        if self._together.first:
            logging.getLogger(__name__).warning(
                "Stopped after step %d of %d; the same command goes on from there.", step, steps
            )
        raise _end(self.received)

    def _take(self, number: int, _: Any) -> None:
        if self.received is not None:
            raise _end(number)
        self.received = number
        # Whatever this interrupts may be writing to standard error itself. Where nobody reads that
        # any more, an error would end the computation that was interrupted.
        with suppress(OSError):
            os.write(2, _SAID.format(signal.Signals(number).name).encode())


def _end(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
