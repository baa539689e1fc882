"""Files that would block, or that expand without limit, are refused."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from telltune.data import safe_open
from telltune.data.examples import Problem
from telltune.data.formats import read_rows
from telltune.data.loaders import read_examples
from telltune.data.parsed_row import ParsedRow
from telltune.errors import DataError
from telltune.recipe import DataSpec

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30


def test_a_bomb_is_stopped_long_before_it_has_swollen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_open, "UNPACKED_BYTES", 2**20)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(bytes(16 * 2**20)))
    [problem] = read_rows(path)
    assert isinstance(problem, Problem)
    assert "unpacks to over 200 times its size" in problem.reason


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz"])
def test_what_merely_packs_well_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(safe_open, "UNPACKED_BYTES", 2**10)
    lines = [f'{{"prompt": "Write the number {n} twice.", "a": "{"x" * 40}"}}' for n in range(3000)]
    text = "\n".join(lines) if ".jsonl" in name else f'{{"data": [{",".join(lines)}]}}'
    (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    rows = list(read_rows(tmp_path / name))
    assert len(rows) == 3000
    assert all(isinstance(row, ParsedRow) for row in rows)


@pytest.mark.timeout(20)
def test_a_loop_of_links_and_a_fifo_are_named_not_followed(tmp_path: Path) -> None:
    loop = tmp_path / "loop.jsonl"
    loop.symlink_to(loop)
    with pytest.raises(DataError, match=r"loop\.jsonl"):
        read_examples([DataSpec(path=str(loop))])
    # Also in a folder, where nobody named the file.
    with pytest.raises(DataError, match=r"loop\.jsonl cannot be read: .*symbolic links"):
        read_examples([DataSpec(path=str(tmp_path))])
    loop.unlink()
    os.mkfifo(tmp_path / "fifo.jsonl")
    with pytest.raises(DataError, match=r"fifo\.jsonl is not a regular file"):
        read_examples([DataSpec(path=str(tmp_path))])


READ = """
import resource, sys
from pathlib import Path
from telltune.data.loaders import scan
from telltune.recipe import DataSpec

limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
{}
for item in scan(DataSpec(path=sys.argv[1])):
    print(item)
"""


def read_in(path: Path, mebibytes: int, before: str = "") -> str:
    """Return what `scan` prints about a file in a process with limited memory, in MiB."""
    found = subprocess.run(
        [sys.executable, "-c", READ.format(before), str(path), str(mebibytes * 2**20)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return found.stdout


@pytest.mark.parametrize(
    ("name", "start", "size"),
    [
        ("a.jsonl", '{"a": "', 2 * GIB),
        ("a.csv", 'p,c\na,"', GIB // 2),
        ("a.json", '[{"a": "', GIB // 2),
        ("b.json", '{"a": [{"a": "', GIB // 2),
    ],
)
def test_a_line_of_gigabytes_takes_no_such_memory(
    tmp_path: Path, name: str, start: str, size: int
) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(start.encode())
        # A sparse file, which uses no space on the disk and reads as zeros.
        file.truncate(size)
    said = read_in(path, 400)
    assert "over 16 MiB" in said or "is missing" in said


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_row_of_millions_of_values_is_bounded(tmp_path: Path, name: str) -> None:
    # Each `10,` of three bytes becomes a Python object of sixty bytes.
    row = '{"a": [' + "10," * (6 * 2**20) + "10]}"
    (tmp_path / name).write_text(row if name == "a.jsonl" else f"[{row}]")
    assert "over 16 MiB" in read_in(tmp_path / name, 400)


def test_a_process_of_these_tests_gets_no_more_memory_than_they_say(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}")
    with pytest.raises(AssertionError, match="MemoryError"):
        read_in(path, 400, before="bytes(2**29)")
