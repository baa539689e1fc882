"""A command that is started again where starting again can help, and only there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from telltune.diagnosis.compression import Filters
from telltune.diagnosis.diagnose import Diagnosis, diagnose
from telltune.storage import writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

__all__ = ["Attempt", "run_with_restarts"]

_PAUSE = 2.0
"""Seconds before the second try, and twice as long before each further one; a minute at most."""


@dataclass(frozen=True)
class Attempt:
    """One try.

    Attributes:
        code: The command's exit status; below 0 the signal that ended it.
        diagnosis: Why it failed; None where it did not, or was asked to stop.
        log: What it printed.
        stopped: Whether it was asked to stop, as this process was.
    """

    code: int
    diagnosis: Diagnosis | None
    log: Path
    stopped: bool = False


def run_with_restarts(
    command: Sequence[str],
    logs: Path,
    restarts: int,
    *,
    on_restart: Callable[[Attempt, int], None] | None = None,
    pause: float = _PAUSE,
) -> list[Attempt]:
    """Run a command, and again while it fails for what a restart can mend.

    What it prints goes on to the terminal and into a log a try. SIGINT and SIGTERM are handed on to
    it, and then it is not started again.

    Args:
        command: A program and its arguments; it goes on where it was by itself.
        logs: A folder, for 1.log and so on.
        restarts: Tries after the first, at most.
        on_restart: Gets the try that failed and its number, before the next.
        pause: Seconds before the second try.

    Returns:
        All tries, the last of which went well or is the one to look at.

    Raises:
        StorageError: A log cannot be written.
    """
    attempts: list[Attempt] = []
    with writing(logs):
        logs.mkdir(parents=True, exist_ok=True)
        for number in range(1, restarts + 2):
            attempts.append(_try(command, logs / f"{number}.log"))
            told = attempts[-1].diagnosis
            if told is None or not told.restart or number > restarts:
                break
            if on_restart is not None:
                on_restart(attempts[-1], number)
            time.sleep(min(pause * 2 ** (number - 1), 60))
    return attempts


def _try(command: Sequence[str], log: Path) -> Attempt:
    with log.open("wb") as file:
        # In a group of its own: Ctrl-C comes here alone, and reaches it once.
        process = subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0
        )
        assert process.stdout is not None  # by `PIPE`
        with _handing_on(process) as received:
            while chunk := os.read(process.stdout.fileno(), 2**16):
                file.write(chunk)
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            code = process.wait()
        if code < 0:
            # Whoever is killed says nothing of it; a shell would.
            name = signal.Signals(-code).name
            word = "Killed" if code == -signal.SIGKILL else "Ended"
            file.write(f"{word} by signal {-code} ({name})\n".encode())
    if code == 0 or received:
        return Attempt(code, None, log, stopped=bool(received))
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return Attempt(code, diagnose(lines, filters=Filters()), log)


@contextmanager
def _handing_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Give a process the signals that this one gets, and say which came."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # where Python lets nobody listen
        return

    def take(number: int, _: object) -> None:
        received.append(number)
        process.send_signal(number)

    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
