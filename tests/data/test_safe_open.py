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

taken = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
limit = taken + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    bytes(2 * int(sys.argv[1]))
except MemoryError:
    print("limited")
for path in sys.argv[2:]:
    for item in scan(DataSpec(path=path)):
        print(path, item)
"""
ROOM = 64 * 2**20


def test_long_lines_and_rows_of_millions_of_values_take_no_such_memory(tmp_path: Path) -> None:
    starts = {
        "a.jsonl": '{"a": "',
        "a.csv": 'p,c\na,"',
        "a.json": '[{"a": "',
        "b.json": '{"a": [{"a": "',
    }
    for name, start in starts.items():
        with (tmp_path / name).open("wb") as file:
            file.write(start.encode())
            # A sparse file, which uses no space on the disk and reads as zeros.
            file.truncate(2 * ROOM)
    # Each `10,` of three bytes becomes a Python object of sixty bytes.
    row = '{"a": [' + "10," * (6 * 2**20) + "10]}"
    (tmp_path / "values.jsonl").write_text(row)
    (tmp_path / "values.json").write_text(f"[{row}]")
    paths = sorted(tmp_path.iterdir())
    found = subprocess.run(
        [sys.executable, "-c", READ, str(ROOM), *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    limited, *said = found.stdout.splitlines()
    assert limited == "limited"
    for path in paths:
        [line] = [line for line in said if line.startswith(f"{path} ")]
        assert "over 16 MiB" in line or (path.name == "b.json" and "is missing" in line)
