"""`tell fit --restarts` resumes a killed run by itself, with the undisturbed result."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
from victim import Left

from forked import Forked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


ALONE = os.environ | {"OMP_NUM_THREADS": "1"}  # as for `undisturbed`, so that sums are the same


def words(recipe: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "telltune", "fit", str(recipe), "--out", str(out)]


@contextmanager
def in_its_midst(recipe: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process of `tell fit --restarts 2` after its fourth step."""
    command = [*words(recipe, out), "--restarts", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ALONE) as parent:
        log = out / "training_log.jsonl"
        end = time.monotonic() + 200
        while not (log.exists() and log.read_bytes().count(b"\n") >= 4):
            assert parent.poll() is None
            assert time.monotonic() < end
            time.sleep(0.001)
        yield parent


def test_a_killed_fit_goes_on_by_itself(recipe: Path, undisturbed: Left, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with in_its_midst(recipe, out) as parent:
        [child] = psutil.Process(parent.pid).children()
        child.kill()
        _, said = parent.communicate(timeout=200)
    assert parent.returncode == 0, said
    assert "Attempt 1 failed (killed)" in said
    assert Left.of(out) == undisturbed
    assert (tmp_path / "out.tries" / "1.log").read_text().endswith("(SIGKILL)\n")


def test_whoever_asks_it_to_stop_asks_the_run(
    recipe: Path, undisturbed: Left, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with in_its_midst(recipe, out) as parent:
        parent.terminate()
        _, said = parent.communicate(timeout=200)
    assert parent.returncode == 143, said
    assert "run the same command to resume" in (tmp_path / "out.tries" / "1.log").read_text()
    assert not (tmp_path / "out.tries" / "2.log").exists()
    again = Forked("fit", recipe, "--out", out, said=tmp_path / "again.txt")
    assert again.wait() == 0, again.said.read_text()
    assert Left.of(out) == undisturbed


def test_a_mistake_ends_it_with_its_cause(recipe: Path, tmp_path: Path) -> None:
    ran = subprocess.run(
        [*words(recipe, tmp_path / "out"), "--restarts=3", "--set", "task.train=nowhere.jsonl"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "missing file" in ran.stderr
    assert not (tmp_path / "out.tries" / "2.log").exists()
