"""Ways to disturb a run from inside, and what a run leaves."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Longer than any step of a toy run.
_FOR_EVER = 400.0
STEPS = 12
"""Number of steps of the disturbed run, which has a checkpoint every three steps."""


@dataclass(frozen=True)
class Left:
    """Results of a run that must be the same after any disturbance."""

    folder: Path = field(compare=False)
    adapter: bytes
    rows: list[dict[str, Any]]
    """Rows of the log, without the seconds of the steps."""

    @classmethod
    def of(cls, out: Path) -> Left:
        return cls(out, (out / "adapter_model.safetensors").read_bytes(), log_rows(out))


def log_rows(out: Path) -> list[dict[str, Any]]:
    """Return the rows of a log, without the seconds of the steps."""
    text = (out / "training_log.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) | {"seconds": None} for line in text.splitlines()]


def die_at_write(number: int) -> None:
    """Kill the process when it syncs or renames for the n-th time."""
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
    """Kill the process when PyTorch has written half of its n-th file."""
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


def fill(disk: Path, but: int = 0) -> None:
    """Write until only the given number of KiB is free."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "filler").write_bytes(bytes(max(free - but * 1024, 0)))


def stand_still(step: int) -> None:
    """Let one step never end."""
    from telltune.training.trainer import MixtureTrainer

    compute = MixtureTrainer._compute

    def slow(self: MixtureTrainer, *rest: object) -> object:
        if self.state.global_step == step:
            time.sleep(_FOR_EVER)
        return compute(self, *rest)

    MixtureTrainer._compute = slow  # type: ignore[method-assign]


def leave_outputs_unread() -> None:
    """Replace standard output and error by a pipe without a reader."""
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
    """End a run in this process in the middle of a step."""
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
