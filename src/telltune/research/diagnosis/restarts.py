"""Run a command and restart it after failures that a restart can fix."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from telltune.research.diagnosis.compression import Filters
from telltune.research.diagnosis.diagnose import Diagnosis, diagnose
from telltune.signals import handling
from telltune.storage import writing

_PAUSE = 2.0
"""Pause before the second attempt in seconds; doubled before each further one, up to a minute."""


@dataclass(frozen=True)
class Attempt:
    """One attempt to run the command.

    Attributes:
        code: Exit status of the command; -N if signal N ended it.
        diagnosis: Cause of the failure; None if the command succeeded or was stopped.
        log: File with the command's output.
        stopped: Whether this process received SIGINT or SIGTERM and passed it on.
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
    """Run a command, and restart it while it fails for a cause that a restart can fix.

    The output goes to the terminal and to one log per attempt. SIGINT and SIGTERM are passed on to
    the command, which is then not restarted.

    Args:
        command: Program and arguments; the program must resume by itself.
        logs: Folder for the logs 1.log, 2.log and so on.
        restarts: Maximum number of restarts.
        on_restart: Function called before each restart with the failed attempt and its number.
        pause: Pause before the first restart in seconds; doubled before each further one, up to
            60 seconds.

    Returns:
        All attempts; only the last may have succeeded.

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
        # In its own process group the command receives Ctrl-C once, passed on by this process.
        process = subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0
        )
        assert process.stdout is not None  # guaranteed by `PIPE`
        with _handing_on(process) as received:
            while chunk := os.read(process.stdout.fileno(), 2**16):
                file.write(chunk)
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            code = process.wait()
        if code < 0:
            # A killed process prints nothing; a shell would report the signal.
            name = signal.Signals(-code).name
            word = "Killed" if code == -signal.SIGKILL else "Ended"
            file.write(f"{word} by signal {-code} ({name})\n".encode())
    if code == 0 or received:
        return Attempt(code, None, log, stopped=bool(received))
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return Attempt(code, diagnose(lines, filters=Filters()), log)


@contextmanager
def _handing_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Pass SIGINT and SIGTERM on to a process, and yield the list of received signals."""
    received: list[int] = []

    def take(number: int) -> None:
        received.append(number)
        process.send_signal(number)

    with handling(take):
        yield received
