"""Files are complete or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from forked import FORKS
from telltune.clock import clock
from telltune.errors import StorageError
from telltune.storage import (
    atomic_folder,
    cache_folder,
    cached_json,
    jsonl_lines,
    or_nan,
    read_cached_json,
    remove_unfinished,
    write_json,
    write_text,
)

FILES = 20


def fill(target: str, name: str, barrier: Any) -> None:
    """Write a process's own name to every file, as a racing process does."""
    with atomic_folder(Path(target)) as folder:
        for i in range(FILES):
            (folder / f"{i}.txt").write_text(name)
        # Both processes fill their folder before either renames it.
        barrier.wait(60)


def test_two_processes_leave_one_whole_folder(tmp_path: Path) -> None:
    barrier = FORKS.Barrier(2)
    target = tmp_path / "deep" / "model"
    racers = [FORKS.Process(target=fill, args=(str(target), n, barrier)) for n in ("a", "b")]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0, 0]
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    assert len(list(target.iterdir())) == FILES
    assert len({path.read_text() for path in target.iterdir()}) == 1


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic_folder(tmp_path / "model") as folder:  # noqa: PT012
        (folder / "half.txt").write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "a.txt").write_text("a")
        assert not (tmp_path / "model").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "a.txt"]


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_file_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tell.json"
    write_text(path, "old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StorageError, match=r"tell\.json: no space left on the disk"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (2**20, r"Needed: 1\.0 MiB; free: 10\.0 KiB\."),
        # More than it seems: file systems reserve some space.
        (100, r"Needed: over 10\.0 KiB; free: 10\.0 KiB\."),
    ],
)
def test_a_full_disk_is_named_with_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, said: str
) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10 * 1024))
    with pytest.raises(StorageError, match=f"or choose another folder. {said}"):
        write_text(tmp_path / "a.txt", "x" * length)
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path))
    with pytest.raises(StorageError, match=f"or set TELLTUNE_CACHE to another folder. {said}"):
        write_text(tmp_path / "a.txt", "x" * length)


def test_everything_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut the data must be complete; the test checks the order of the calls."""
    done: list[str] = []
    sync = os.fsync

    def spy(handle: int) -> None:
        name = Path(f"/proc/self/fd/{handle}").readlink().name
        unfinished = {path.name for path in tmp_path.glob(".*")}
        done.append("unfinished" if name in unfinished else name)
        sync(handle)

    monkeypatch.setattr(os, "fsync", spy)
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "a.txt").write_text("a")
        (folder / "deep").mkdir()
        (folder / "deep" / "b.txt").write_text("b")
    assert sorted(done[:4]) == ["a.txt", "b.txt", "deep", "unfinished"]
    assert done[4:] == [tmp_path.name]
    done.clear()
    write_text(tmp_path / "c.txt", "c")
    assert done == ["unfinished", tmp_path.name]


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".a.txt.12345678.unfinished", ".hidden", "b.unfinished"):
        (tmp_path / name).touch()
    (tmp_path / ".model.12345678.unfinished").mkdir()
    (tmp_path / ".model.12345678.unfinished" / "half").touch()
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".hidden", "b.unfinished"}


def test_a_file_is_replaced_and_as_readable_as_others(tmp_path: Path) -> None:
    path, other = tmp_path / "deep" / "a.txt", tmp_path / "other"
    write_text(path, "old")
    write_text(path, "þetta")
    other.touch()
    assert path.read_text(encoding="utf-8") == "þetta"
    assert path.stat().st_mode == other.stat().st_mode
    assert list(path.parent.iterdir()) == [path]


def test_only_a_line_feed_ends_a_line_of_jsonl(tmp_path: Path) -> None:
    texts = [f"a{end}b" for end in "\u2028\u2029\x85\x1c\x1d\x1e\v\f\r\n"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts), "utf-8")
    assert [json.loads(line) for line in jsonl_lines(path)] == texts
    path.write_bytes(b"1\r\n2")
    assert jsonl_lines(path) == [b"1\r\n", b"2"]


def test_json_is_for_people_too(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"þ": [1]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"þ": [1]}
    assert "þ" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_null_for_what_is_no_number(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "a.json", {"rows": [{"low": value, "score": 1.5}], "pair": (value, "x")})
    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert read == {"rows": [{"low": None, "score": 1.5}], "pair": [None, "x"]}
    assert math.isnan(or_nan(None))
    assert or_nan(1.5) == 1.5


def test_a_file_in_place_of_a_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "blocked"
    blocked.touch()
    with pytest.raises(StorageError, match=r"blocked.a\.txt: cannot be written to"):
        write_text(blocked / "a.txt", "text")
    with pytest.raises(StorageError, match=r"blocked.model: cannot be written to"):
        atomic_folder(blocked / "model").__enter__()
    monkeypatch.setenv("TELLTUNE_CACHE", str(blocked))
    with pytest.raises(StorageError, match=r"blocked.models: cannot be written to"):
        cache_folder("models")


def test_a_read_only_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match=r"a\.txt: cannot be written to \(Read-only file system"):
        write_text(tmp_path / "a.txt", "text")


def test_the_cache_lies_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "mine"))
    assert cache_folder("models") == tmp_path / "mine" / "models"
    monkeypatch.delenv("TELLTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "telltune"
    assert (tmp_path / "telltune").is_dir()


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff"])
def test_what_cannot_be_read_of_the_cache_is_not_there(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    assert read_cached_json(path) is None
    write_json(path, {"a": 1})
    assert read_cached_json(path) == {"a": 1}


def test_what_is_kept_counts_on_the_clock_as_if_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    path, made = tmp_path / "a.json", []

    def make() -> list[int]:
        now[0] += 7
        made.append(1)
        return [1, 2]

    def asked() -> None:
        began = clock()
        assert cached_json(path, make) == [1, 2]
        assert clock() - began == 7

    for _ in range(3):
        asked()
    assert made == [1]
    path.write_bytes(b"[1,")  # A file that cannot be read is made again.
    asked()
    assert made == [1, 1]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the umask")
def test_writing_does_not_change_the_umask_that_other_threads_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask was changed"))
    write_text(tmp_path / "text", "")


def test_what_is_written_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "model") as folder:
            save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
            (folder / "parts").mkdir()
        write_text(tmp_path / "text", "")
    finally:
        os.umask(before)
    written = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert written == {"model": 0o750, "model.safetensors": 0o640, "parts": 0o750, "text": 0o640}
