"""Checkpoints are complete or absent, fully verified, and only the newest two are kept."""

from __future__ import annotations

import errno
import os
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.errors import StorageError
from telltune.training import checkpoints as checkpoints_module
from telltune.training.checkpoints import Checkpoints

if TYPE_CHECKING:
    from pathlib import Path

INPUTS = {"model": "a", "task data": "b", "general data": None}
FILES = {"weights": b"w" * 1000, "optimizer": b"o" * 100, "deep/state": b"{}"}


def save(checkpoints: Checkpoints, step: int) -> None:
    """Save a checkpoint as the Trainer does."""
    with checkpoints.saving(step, needed=0):
        for name, content in FILES.items():
            path = checkpoints.unfinished / f"checkpoint-{step}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content + b"%d" % step)
    checkpoints.wait()


def test_the_two_newest_steps_are_kept_whatever_the_clock_says(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, INPUTS)
    for step in (8, 9, 10, 100):
        save(checkpoints, step)
        os.utime(tmp_path / f"checkpoint-{step}", (1000 - step, 1000 - step))
    assert checkpoints.latest() == tmp_path / "checkpoint-100"
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-10", "checkpoint-100"}


def test_there_is_none_at_first_and_what_was_never_finished_is_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "not made yet", INPUTS)
    assert checkpoints.latest() is None
    half = checkpoints.unfinished / "checkpoint-3"
    half.mkdir(parents=True)
    (half / "weights").write_bytes(b"w")
    assert checkpoints.latest() is None
    assert not half.exists()


def test_one_that_fails_on_the_way_leaves_the_others(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, INPUTS)
    save(checkpoints, 1)
    with pytest.raises(KeyError), checkpoints.saving(2, needed=0):
        raise KeyError
    assert checkpoints.latest() == tmp_path / "checkpoint-1"


def test_training_goes_on_while_the_disk_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, publish = Event(), checkpoints_module.publish

    def waits(*arguments: Any) -> None:
        assert slow.wait(30)
        publish(*arguments)

    monkeypatch.setattr(checkpoints_module, "publish", waits)
    with Checkpoints(tmp_path, INPUTS) as checkpoints:
        with checkpoints.saving(1, needed=0):
            pass
        # The next steps are computed here.
        assert not (tmp_path / "checkpoint-1").exists()
        slow.set()
        assert checkpoints.latest() == tmp_path / "checkpoint-1"
        slow.clear()
        with checkpoints.saving(2, needed=0):
            pass
        slow.set()
    # After the run ends for any reason, writing has ended too.
    assert (tmp_path / "checkpoint-2").exists()


def test_what_the_disk_refuses_meanwhile_is_said_at_the_next(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, INPUTS)
    save(checkpoints, 1)

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with checkpoints.saving(2, needed=0):
        checkpoints.later(full)
    with pytest.raises(StorageError, match="checkpoint-2: no space left"):
        checkpoints.saving(3, needed=0).__enter__()
    assert checkpoints.latest() == tmp_path / "checkpoint-1"


@settings(max_examples=30)
@given(data=st.data())
def test_any_bit_of_any_file_is_missed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints = Checkpoints(folder, INPUTS)
    save(checkpoints, 1)
    save(checkpoints, 2)
    files = sorted(path for path in (folder / "checkpoint-2").rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    match data.draw(st.sampled_from(["flip", "truncate", "remove", "add"])):
        case "flip":
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(
                st.integers(0, 7)
            )
            path.write_bytes(content)
        case "truncate":
            path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        case "remove":
            path.unlink()
        case "add":
            path.with_name("more").write_bytes(b"")
    assert checkpoints.latest() == folder / "checkpoint-1"
    assert not (folder / "checkpoint-2").exists()


def test_with_all_of_them_damaged_training_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, INPUTS)
    for step in (1, 2):
        save(checkpoints, step)
        (tmp_path / f"checkpoint-{step}" / "weights").write_bytes(b"")
    assert checkpoints.latest() is None
    second, first = (record.getMessage() for record in caplog.records)
    assert second == (
        f"{tmp_path / 'checkpoint-2'} is damaged (checksum mismatch: weights): training resumes "
        "from the previous one."
    )
    assert first.endswith("training starts over.")


def test_other_inputs_are_named(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path / "checkpoints", INPUTS), 1)
    other = Checkpoints(tmp_path / "checkpoints", INPUTS | {"model": "x", "task data": "y"})
    with pytest.raises(StorageError, match=r"changed since: model, task data\. Restore"):
        other.latest()
    # Nothing was removed: with the old files the run would continue.
    assert Checkpoints(tmp_path / "checkpoints", INPUTS).latest() is not None
