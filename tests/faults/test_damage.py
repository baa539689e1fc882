"""A damaged checkpoint is reported, and the one before it is used."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from victim import Left, cut_at

import telltune
from telltune.training.callbacks import LogCallback

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (flip, "adapter_model.safetensors"),
        (truncate, "optimizer.pt"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    short: dict[str, Any],
    undisturbed: Left,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    name: str,
) -> None:
    out = tmp_path / "out"

    def run() -> object:
        return telltune.fit(short, out, progress=False)

    cut_at(8, monkeypatch, run)
    damage(out / "checkpoints" / "checkpoint-6" / name)
    began: list[int] = []
    begin = LogCallback.on_train_begin

    def spy(self: LogCallback, args: Any, state: Any, *rest: Any, **more: Any) -> None:
        began.append(state.global_step)
        begin(self, args, state, *rest, **more)

    monkeypatch.setattr(LogCallback, "on_train_begin", spy)
    with caplog.at_level(logging.WARNING, logger="telltune"):
        run()
    [said] = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert said.startswith(f"{out / 'checkpoints' / 'checkpoint-6'} is damaged")
    assert said.endswith("training resumes from the previous one.")
    assert name in said
    assert began == [3]
    assert Left.of(out) == undisturbed
