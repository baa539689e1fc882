"""If the disk fills up, good files stay good, and the run continues when there is room."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from victim import Left, fill

import telltune
from telltune.errors import StorageError
from telltune.fitting import trained_method
from telltune.study.results import ResultRow, Results
from telltune.training.callbacks import LogCallback
from telltune.training.checkpoints import Checkpoints
from telltune.training.trainer import MixtureTrainer

if TYPE_CHECKING:
    from pathlib import Path

ROOM = r"no space left on the disk; .* Needed: (over )?[\d.,]+ [KM]iB; free: [\d.,]+ [KM]iB\."


def test_a_checkpoint_that_has_no_room_leaves_the_one_before(
    short: dict[str, Any],
    undisturbed: Left,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = small_disk / "out"
    saving = Checkpoints.saving

    def full(self: Checkpoints, step: int, needed: int) -> Any:
        if step == 6 and not (small_disk / "filler").exists():
            fill(small_disk, 20)
        return saving(self, step, needed)

    monkeypatch.setattr(Checkpoints, "saving", full)
    with pytest.raises(StorageError, match=f"{out / 'checkpoints' / 'checkpoint-6'}: {ROOM}"):
        telltune.fit(short, out, progress=False)
    left = {path.name for path in (out / "checkpoints").iterdir()}
    assert left - {"unfinished"} == {"checkpoint-3"}
    (small_disk / "filler").write_bytes(b"")
    telltune.fit(short, out, progress=False)
    assert Left.of(out) == undisturbed


def test_an_adapter_that_has_no_room_is_written_when_there_is(
    short: dict[str, Any],
    undisturbed: Left,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = small_disk / "out"
    save = trained_method.save_adapter

    def full(*arguments: Any, **parts: Any) -> None:
        fill(small_disk, 12)
        save(*arguments, **parts)

    with monkeypatch.context() as patched:
        patched.setattr(trained_method, "save_adapter", full)
        with pytest.raises(StorageError, match=f"{out}.*: {ROOM}"):
            telltune.fit(short, out, progress=False)
    assert not (out / "tell.json").exists()
    assert (out / "checkpoints" / "checkpoint-12").is_dir()
    (small_disk / "filler").unlink()
    # Nothing is trained again.
    monkeypatch.setattr(MixtureTrainer, "training_step", lambda *_: pytest.fail("trained"))
    telltune.fit(short, out, progress=False)
    assert Left.of(out) == undisturbed


def test_a_log_that_has_no_room_is_named(
    short: dict[str, Any],
    undisturbed: Left,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = small_disk / "out"
    log = LogCallback.on_log

    def full(self: LogCallback, args: Any, state: Any, *rest: Any, **more: Any) -> None:
        if state.global_step == 5:
            # The last page of the log may have room for one more line.
            (out / "training_log.jsonl").open("a").write(" " * (4096 - self.path.stat().st_size))
            fill(small_disk)
        log(self, args, state, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(LogCallback, "on_log", full)
        with pytest.raises(StorageError, match=f"training_log.jsonl: {ROOM}"):
            telltune.fit(short, out, progress=False)
    (small_disk / "filler").unlink()
    telltune.fit(short, out, progress=False)
    assert Left.of(out) == undisturbed


def test_a_row_that_has_no_room_leaves_the_rows_before(small_disk: Path) -> None:
    results = Results(small_disk)
    rows = [ResultRow(f"key {n}", "failed", "task", "tell", "tell", n, 1.0, 0) for n in range(3)]
    results.append(rows[0])
    fill(small_disk)
    # A disk allocates whole pages, so the last page may have room for a row.
    long = ResultRow("long", "failed", "task", "tell", "tell", 9, 1.0, 0, reason="x" * 5000)
    with pytest.raises(StorageError, match=f"results.jsonl: {ROOM}"):
        results.append(long)
    (small_disk / "filler").unlink()
    again = Results(small_disk)
    assert again.rows == rows[:1]
    again.append(rows[1])
    assert [row.key for row in Results(small_disk).rows] == ["key 0", "key 1"]


def test_a_cache_that_has_no_room_keeps_what_it_had(
    short: dict[str, Any], small_disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TELLTUNE_CACHE", str(small_disk / "cache"))
    telltune.plan(short, measure=False)
    before = sorted((small_disk / "cache" / "encoded").iterdir())
    fill(small_disk, 4)
    longer = tmp_path / "more.jsonl"
    rows = [{"prompt": f"Write {n} twice. " * 8, "completion": "x"} for n in range(500)]
    longer.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(StorageError, match=rf"cache/\S+: {ROOM}") as refused:
        telltune.plan(short | {"general": str(longer)}, measure=False)
    assert "set TELLTUNE_CACHE to another folder" in str(refused.value)
    assert sorted((small_disk / "cache" / "encoded").iterdir()) == before
    (small_disk / "filler").unlink()
    telltune.plan(short | {"general": str(longer)}, measure=False)
