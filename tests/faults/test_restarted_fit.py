"""`tell fit --restarts` resumes a killed run by itself, with the undisturbed result."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import psutil
import pytest
from victim import Left

from forked import Forked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def start(recipe: Path, tmp_path: Path) -> Callable[..., Forked]:
    """Return a function that runs `tell fit --restarts 2`, whose attempts are new processes."""

    def start(*more: object) -> Forked:
        words = ("fit", recipe, "--out", tmp_path / "out", "--restarts", 2, *more)
        # As for `undisturbed`, so that sums are the same.
        alone = {"OMP_NUM_THREADS": "1"}
        return Forked(*words, said=tmp_path / "said.txt", environment=alone)

    return start


def test_a_killed_fit_goes_on_by_itself(
    start: Callable[..., Forked], undisturbed: Left, tmp_path: Path
) -> None:
    parent, log = start(), tmp_path / "out" / "training_log.jsonl"
    parent.until(lambda: log.exists() and log.read_bytes().count(b"\n") >= 4)
    [child] = psutil.Process(parent.process.pid).children()
    child.kill()
    assert parent.wait() == 0, parent.said.read_text()
    said = parent.said.read_text()
    assert "Attempt 1 failed (killed)" in said
    assert Left.of(tmp_path / "out") == undisturbed
    assert (tmp_path / "out.tries" / "1.log").read_text().endswith("(SIGKILL)\n")


def test_whoever_asks_it_to_stop_asks_the_run(start: Callable[..., Forked], tmp_path: Path) -> None:
    parent, log = start(), tmp_path / "out" / "training_log.jsonl"
    parent.until(lambda: log.exists() and log.read_bytes().count(b"\n") >= 4)
    parent.signal(signal.SIGTERM)
    assert parent.wait() == 143, parent.said.read_text()
    # How it resumes: test_signals.py.
    assert "run the same command to resume" in (tmp_path / "out.tries" / "1.log").read_text()
    assert not (tmp_path / "out.tries" / "2.log").exists()


def test_a_mistake_ends_it_with_its_cause(start: Callable[..., Forked], tmp_path: Path) -> None:
    parent = start("--set", "task.train=nowhere.jsonl")
    assert parent.wait() == 2
    assert "missing file" in parent.said.read_text()
    assert not (tmp_path / "out.tries" / "2.log").exists()
