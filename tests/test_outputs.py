"""Computation continues if standard output or error loses its reader."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from telltune.outputs import guard_outputs

if TYPE_CHECKING:
    from pathlib import Path

# More output than a pipe or a buffer holds, by every way to print.
TALK = """
import logging, sys, warnings
from pathlib import Path
from rich.console import Console
from telltune.outputs import guard_outputs
guard_outputs()
guard_outputs()
for n in range(2000):
    print("out", "x" * 100)
    print("error", "x" * 100, file=sys.stderr)
    warnings.warn(f"warning {n}")
    logging.getLogger("a").warning("log")
    sys.stdout.buffer.write(b"bytes")
Console(stderr=True).print("rich")
with Path(sys.argv[1]).open("w") as file:
    print(file.fileno(), file=file)
"""


def talk(said: Path, shell: str, *, unbuffered: bool = False) -> subprocess.CompletedProcess[bytes]:
    """Run `TALK` with a shell's redirections."""
    flags = ["-u"] if unbuffered else []
    command = ["sh", "-c", f'"$@" {shell}', "sh", sys.executable, *flags, "-c", TALK, str(said)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("shell", [">&- 2>&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_fail_nothing_and_no_file_gets_their_number(
    shell: str, unbuffered: bool, tmp_path: Path
) -> None:
    done = talk(tmp_path / "said", shell, unbuffered=unbuffered)
    assert done.returncode == 0
    assert int((tmp_path / "said").read_text()) > 2


@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_reader_that_has_left_fails_nothing(unbuffered: bool, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    flags = ["-u"] if unbuffered else []
    code = subprocess.run(
        [sys.executable, *flags, "-c", TALK, str(tmp_path / "said")],
        stdout=writing,
        stderr=writing,
        timeout=60,
        check=False,
    ).returncode
    os.close(writing)
    assert code == 0
    assert (tmp_path / "said").exists()


def test_a_reader_gets_all_that_is_said(tmp_path: Path) -> None:
    done = talk(tmp_path / "said", "")
    assert done.stdout.count(b"out xxx") == 2000
    assert done.stdout.count(b"bytes") == 2000
    assert done.stderr.count(b"error xxx") == 2000
    assert b"rich" in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")  # noqa: PTH110
def test_a_full_disk_is_still_an_error(tmp_path: Path) -> None:
    done = talk(tmp_path / "said", ">/dev/full")
    assert done.returncode != 0
    assert b"No space left" in done.stderr


def test_streams_that_are_not_the_processs_own_stay(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    guard_outputs()
    assert (sys.stdout, sys.stderr) == before
    print("still captured")
    assert capsys.readouterr().out == "still captured\n"
