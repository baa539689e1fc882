"""A run is restarted only if that can help, and only as often as allowed."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from telltune.research.diagnosis.restarts import Attempt, run_with_restarts
from telltune.signals import handling

if TYPE_CHECKING:
    from pathlib import Path


def program(path: Path, fault: str, fails: int) -> list[str]:
    """Write a program that fails the given number of times and then prints `done`."""
    path.write_text(
        "import os, sys, pathlib\n"
        f"tries = pathlib.Path({str(path)!r} + '.tries')\n"
        "number = len(tries.read_text()) if tries.exists() else 0\n"
        "tries.write_text('x' * (number + 1))\n"
        f"if number < {fails}:\n    {fault}\n"
        "print('done')\n"
    )
    return [sys.executable, str(path)]


def test_a_killed_run_is_started_again(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    def note(attempt: Attempt, number: int) -> None:
        told.append((attempt.code, number))

    command = program(tmp_path / "a.py", "os.kill(os.getpid(), 9)", 2)
    tries = run_with_restarts(command, tmp_path / "logs", 3, on_restart=note, pause=0)
    assert [each.code for each in tries] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert told == [(-9, 1), (-9, 2)]
    assert tries[0].diagnosis is not None
    assert tries[0].diagnosis.cause == "killed"
    assert (tmp_path / "logs" / "3.log").read_text() == "done\n"


def test_a_mistake_is_not(tmp_path: Path) -> None:
    command = program(tmp_path / "a.py", "{}['completion']", 9)
    tries = run_with_restarts(command, tmp_path / "logs", 3, pause=0)
    assert len(tries) == 1
    assert tries[0].diagnosis is not None
    assert tries[0].diagnosis.cause == "programming_error"


def test_whoever_asks_it_to_stop_asks_the_run(tmp_path: Path) -> None:
    # Repeated, because the first may come before it listens.
    asks = "import time\n    for _ in range(500): os.kill(os.getppid(), 15); time.sleep(0.02)"
    command = program(tmp_path / "a.py", asks, 9)
    with handling(lambda _: None):
        [only] = run_with_restarts(command, tmp_path / "logs", 3, pause=0)
    assert only.stopped
    assert only.code == -signal.SIGTERM
    assert only.diagnosis is None


def test_there_is_an_end_to_it(tmp_path: Path) -> None:
    command = program(tmp_path / "a.py", "raise ConnectionError('read timed out')", 9)
    tries = run_with_restarts(command, tmp_path / "logs", 2, pause=0)
    assert len(tries) == 3
    assert tries[-1].code == 1
