"""The hash of a file is cached until anything about the file changes."""

import hashlib
import os
import time

import pytest

from telltune.data import fingerprint
from telltune.data.fingerprint import code_hash, file_hash
from telltune.storage import cache_folder


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hashed(monkeypatch):
    """Return the files that were hashed; all files count as unchanged for a long time."""
    monkeypatch.setattr(fingerprint, "_TICK_NS", -(10**9))
    names = []
    file_digest = hashlib.file_digest

    def counting(file, name):
        names.append(os.path.basename(file.name))  # noqa: PTH119
        return file_digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    return names


def test_an_unchanged_file_is_hashed_once(tmp_path, hashed):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"first")
    assert file_hash(path) == file_hash(path) == sha256(b"first")
    assert hashed == ["a.jsonl"]


def test_another_content_of_the_same_size_and_time_is_noticed(tmp_path, hashed):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"first")
    file_hash(path)
    before = path.stat()
    time.sleep(0.02)
    path.write_bytes(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert file_hash(path) == sha256(b"other")


def test_a_file_put_in_the_place_of_another_is_noticed(tmp_path, hashed):
    path, new = tmp_path / "a.jsonl", tmp_path / "new.jsonl"
    path.write_bytes(b"first")
    new.write_bytes(b"other")
    file_hash(path)
    new.replace(path)
    assert file_hash(path) == sha256(b"other")


def test_a_file_that_was_only_just_written_is_not_remembered(tmp_path):
    path = tmp_path / "a.jsonl"
    for content in (b"first", b"other", b"third"):
        # All changes are within a tick of the clock, so no time of the file need differ.
        path.write_bytes(content)
        assert file_hash(path) == sha256(content)


def test_a_memory_that_cannot_be_read_is_none(tmp_path, hashed):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"first")
    file_hash(path)
    for memory in cache_folder("files").iterdir():
        memory.write_text("{")
    assert file_hash(path) == sha256(b"first")
    assert len(hashed) == 2


def test_what_is_no_readable_file_has_no_hash(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert file_hash(tmp_path / "pipe.jsonl") is None
    assert file_hash(tmp_path) is None
    assert file_hash(tmp_path / "missing.jsonl") is None


def test_the_code_has_one_hash():
    assert code_hash() == code_hash()
    assert len(code_hash()) == 64
