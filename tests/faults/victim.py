"""A process that runs `tell`, for tests to disturb, and what a run leaves.

The process is forked from one that has done all imports, so that a try takes a second, and most
moments of it are those of training.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

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
# Bounds every wait here; the machine may be busy with other work.
_PATIENCE = 200.0


STEPS = 12
"""Of the run that is disturbed; it has a checkpoint every three."""


@dataclass(frozen=True)
class Left:
    """What a run left, as far as it has to be the same whatever happened in between."""

    folder: Path = field(compare=False)
    adapter: bytes
    rows: list[dict[str, Any]]
    """Of the log, without the seconds that a step took."""

    @classmethod
    def of(cls, out: Path) -> Left:
        return cls(out, (out / "adapter_model.safetensors").read_bytes(), log_rows(out))


def log_rows(out: Path) -> list[dict[str, Any]]:
    """The log's rows, without the seconds that a step took."""
    text = (out / "training_log.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) | {"seconds": None} for line in text.splitlines()]


class Victim:
    """`tell` with some arguments, in a process of its own.

    Args:
        arguments: Of the command line.
        said: A file for what it prints.
        fault: Called there first, to break something from inside.
        environment: Set there.
    """

    def __init__(
        self,
        *arguments: object,
        said: Path,
        fault: Callable[[], None] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.said = said
        # The process that is forked from may have started under another test's environment.
        environment = {"TELLTUNE_CACHE": os.environ["TELLTUNE_CACHE"]} | (environment or {})
        words = [str(argument) for argument in arguments]
        self.process = _FORKS.Process(target=_run, args=(words, said, fault, environment))
        self.process.start()

    def wait(self) -> int:
        """Its exit code; negative for a signal."""
        self.process.join(_PATIENCE)
        assert self.process.exitcode is not None, f"it hangs: {self.said.read_text()}"
        return self.process.exitcode

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for something that it does."""
        end = time.monotonic() + _PATIENCE
        while not happened():
            assert self.process.exitcode is None, self.said.read_text()
            assert time.monotonic() < end, f"it hangs: {self.said.read_text()}"
            time.sleep(0.001)


def _run(
    words: list[str],
    said: Path,
    fault: Callable[[], None] | None,
    environment: dict[str, str],
) -> None:
    import torch

    from telltune.cli import main

    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    if fault is not None:
        fault()
    sys.argv = ["tell", *words]
    main()


def die_at_write(number: int) -> None:
    """Let the process be killed when it syncs or renames something for the n-th time."""
    calls = iter(range(1, number))

    def dying(function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **more: Any) -> None:
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            function(*arguments, **more)

        return call

    for name in ("fsync", "replace", "rename"):
        setattr(os, name, dying(getattr(os, name)))


def die_while_saving(number: int) -> None:
    """Let the process be killed with the n-th file of PyTorch's half written."""
    import torch

    save, calls = torch.save, iter(range(1, number))

    def half(what: object, path: str) -> None:
        save(what, path)
        if next(calls, None) is None:
            os.truncate(path, os.path.getsize(path) // 2)  # noqa: PTH202
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half


def die_while_tokenizing() -> None:
    from telltune.data.encoded import EncodedWriter

    def append(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    EncodedWriter.append = append  # type: ignore[method-assign]


def die_when_finished() -> None:
    from telltune import api

    def remember(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    api.remember = remember


def stand_still(step: int) -> None:
    """Let one step take for ever."""
    from telltune.training.trainer import MixtureTrainer

    compute = MixtureTrainer._compute

    def slow(self: MixtureTrainer, *rest: object) -> object:
        if self.state.global_step == step:
            time.sleep(2 * _PATIENCE)
        return compute(self, *rest)

    MixtureTrainer._compute = slow  # type: ignore[method-assign]


def leave_outputs_unread() -> None:
    """Make standard output and error a pipe whose reader has left."""
    reading, writing = os.pipe()
    os.close(reading)
    for number in (1, 2):
        os.dup2(writing, number)


def close_outputs() -> None:
    """Close standard output and error."""
    for number in (1, 2):
        os.close(number)


class PowerCutError(Exception):
    pass


def cut_at(step: int, monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> None:
    """End a run of this process in the midst of a step."""
    from telltune.training.callbacks import LogCallback

    log = LogCallback.on_log

    def cut(self: LogCallback, args: Any, state: Any, *rest: Any, **more: Any) -> None:
        if state.global_step == step:
            raise PowerCutError
        log(self, args, state, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(LogCallback, "on_log", cut)
        with pytest.raises(PowerCutError):
            run()
