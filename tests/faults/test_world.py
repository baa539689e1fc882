"""A run survives vanishing files, clocks that jump, and a read-only home folder."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from victim import Left, cut_at

import telltune
from telltune.data.encoding import Encoder
from telltune.errors import DataError, ModelError, RecipeError, StorageError
from telltune.training.callbacks import LogCallback


@pytest.fixture
def movable(
    short: dict[str, Any], undisturbed: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Return the recipe with a copy of the model and a separate cache."""
    short["model"] = shutil.copytree(short["model"], tmp_path / "model").as_posix()
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "cache"))
    return short


def vanish(recipe: dict[str, Any], *what: str) -> None:
    if "data" in what:
        for path in (*recipe["task"].values(), recipe["general"]):
            if isinstance(path, str):
                Path(path).unlink()
    if "model" in what:
        shutil.rmtree(recipe["model"])
    if "cache" in what:
        shutil.rmtree(os.environ["TELLTUNE_CACHE"])


@pytest.mark.filterwarnings("ignore:Could not find a config file")  # PEFT's warning about the model
def test_what_vanishes_in_the_midst_of_a_run_is_not_missed(
    movable: dict[str, Any],
    undisturbed: Left,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = LogCallback.on_log

    def gone(self: LogCallback, args: Any, state: Any, *rest: Any, **more: Any) -> None:
        if state.global_step == 5:
            vanish(movable, "data", "model", "cache")
        log(self, args, state, *rest, **more)

    monkeypatch.setattr(LogCallback, "on_log", gone)
    telltune.fit(movable, tmp_path / "out", progress=False)
    assert Left.of(tmp_path / "out") == undisturbed


@pytest.mark.parametrize(
    ("what", "error", "said"),
    [
        ("data", RecipeError, r"train\.jsonl: check the path.*general\.jsonl"),
        ("model", ModelError, "no such folder"),
        ("cache", None, ""),
    ],
)
def test_what_vanished_before_a_run_goes_on_is_named_or_made_again(
    movable: dict[str, Any],
    undisturbed: Left,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    error: type[Exception] | None,
    said: str,
) -> None:
    def run() -> object:
        return telltune.fit(movable, tmp_path / "out", progress=False)

    cut_at(5, monkeypatch, run)
    vanish(movable, what)
    if error is not None:
        with pytest.raises(error, match=said):
            run()
        assert (tmp_path / "out" / "checkpoints" / "checkpoint-3").is_dir()
        return
    run()
    assert Left.of(tmp_path / "out") == undisturbed


def test_a_test_file_that_vanished_is_named(
    short: dict[str, Any], undisturbed: Left, tmp_path: Path
) -> None:
    Path(short["task"]["test"]).unlink()
    with pytest.raises(DataError, match=r"test\.jsonl"):
        telltune.evaluate(undisturbed.folder, short, progress=False)


def test_a_clock_that_jumps_changes_nothing(
    short: dict[str, Any],
    undisturbed: Left,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began = time.monotonic()
    jumps = itertools.cycle([0.0, -1e6, 3e7, -4e8])
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(next(jumps) * 1e9))
    out = tmp_path / "out"
    save = LogCallback.on_log

    def touch(self: LogCallback, *rest: Any, **more: Any) -> None:
        # The file times run backwards.
        for number, path in enumerate(sorted((out / "checkpoints").glob("checkpoint-*"))):
            with suppress(FileNotFoundError):  # removed by the thread that wrote a newer one
                os.utime(path, (1e9 - number * 1e5,) * 2)
        save(self, *rest, **more)

    def run() -> Any:
        return telltune.fit(short, out, progress=False)

    with monkeypatch.context() as patched:
        patched.setattr(LogCallback, "on_log", touch)
        cut_at(11, patched, run)
    assert {path.name for path in (out / "checkpoints").iterdir()} >= {
        "checkpoint-6",
        "checkpoint-9",
    }
    fitted = run()
    assert Left.of(out) == undisturbed
    assert 0 < fitted.record["seconds"] < time.monotonic() - began
    rows = [json.loads(line) for line in (out / "training_log.jsonl").open()]
    assert all(0 < row["seconds"] < time.monotonic() - began for row in rows)


@pytest.fixture
def read_only_home(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    mounted = subprocess.run(
        ["mount", "-o", "remount,ro", str(small_disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mount -o remount,ro is not allowed here")
    monkeypatch.setenv("HOME", str(small_disk))
    return small_disk


def test_a_read_only_home_is_named_with_the_way_out(
    short: dict[str, Any],
    read_only_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("TELLTUNE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(StorageError) as refused:
        telltune.fit(short, tmp_path / "out", progress=False)
    said = str(refused.value)
    assert said.startswith(f"{read_only_home}/.cache/telltune")
    assert said.endswith(
        "cannot be written to (Read-only file system); set TELLTUNE_CACHE to another folder."
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif("TELLTUNE_KILLS" not in os.environ, reason="benchmarks/faults.py tries it")
def test_with_a_cache_elsewhere_a_read_only_home_is_enough(
    recipe: Path, undisturbed: Left, read_only_home: Path, tmp_path: Path
) -> None:
    """The real command runs in a new process, where no library may write to the home folder."""
    command = [sys.executable, "-m", "telltune", "fit", str(recipe), "--out", str(tmp_path / "out")]
    source = str(Path(telltune.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stderr
    assert Left.of(tmp_path / "out") == undisturbed


def test_a_tokenizing_thread_that_dies_ends_the_run(
    short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DiedError(Exception):
        pass

    def dies(*_: object) -> None:
        raise DiedError

    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patched:
        patched.setattr(Encoder, "_tokenize", dies)
        with pytest.raises(DiedError):
            telltune.plan(short, measure=False)
    assert list((tmp_path / "cache" / "encoded").iterdir()) == []
    telltune.plan(short, measure=False)
