"""Processes that run `tell` without repeating its imports; tests start and disturb them."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        *("telltune.cli", "telltune.api", "telltune.training.trainer", "telltune.training.health"),
        *("telltune.training.stopping", "peft", "transformers.models.llama.modeling_llama"),
    ]
)
# Limit of every wait; the machine may be busy.
_PATIENCE = 200.0


class Forked:
    """Process that runs `tell` with the given arguments.

    It is forked from a process that has done all imports. It therefore takes a second, most of
    which is training.

    Args:
        arguments: Arguments of the command line.
        said: File for its output.
        first: Function that it calls first, for example to break something from inside.
        environment: Environment variables to set in it.
    """

    def __init__(
        self,
        *arguments: object,
        said: Path,
        first: Callable[[], None] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.said = said
        # The process that is forked from may have started under another test's environment.
        environment = {"TELLTUNE_CACHE": os.environ["TELLTUNE_CACHE"]} | (environment or {})
        words = [str(argument) for argument in arguments]
        self.process = _FORKS.Process(target=_run, args=(words, said, first, environment))
        self.process.start()

    def wait(self) -> int:
        """Return the exit code, which is negative for a signal."""
        self.process.join(_PATIENCE)
        assert self.process.exitcode is not None, f"it hangs: {self.said.read_text()}"
        return self.process.exitcode

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + _PATIENCE
        while not happened():
            assert self.process.exitcode is None, self.said.read_text()
            assert time.monotonic() < end, f"it hangs: {self.said.read_text()}"
            time.sleep(0.001)


def _run(
    words: list[str],
    said: Path,
    first: Callable[[], None] | None,
    environment: dict[str, str],
) -> None:
    import torch

    from telltune.cli import main

    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    if first is not None:
        first()
    sys.argv = ["tell", *words]
    main()
