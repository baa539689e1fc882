"""`tell fit --restarts` resumes a killed run by itself, with the undisturbed result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil
import pytest
from victim import Left, cut_at

import telltune
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
    start: Callable[..., Forked],
    short: dict[str, Any],
    undisturbed: Left,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    # What the killed attempt would leave if it had done its slow imports.
    cut_at(7, monkeypatch, lambda: telltune.fit(short, out, progress=False))
    parent = start()
    children = psutil.Process(parent.process.pid).children
    parent.until(lambda: bool(children()))
    children()[0].kill()
    assert parent.wait() == 0, parent.said.read_text()
    said = parent.said.read_text()
    assert "Attempt 1 failed (killed)" in said
    assert "resumes from step 6 of 12" in said
    assert Left.of(out) == undisturbed
    assert (tmp_path / "out.tries" / "1.log").read_text().endswith("(SIGKILL)\n")


def test_a_mistake_ends_it_with_its_cause(start: Callable[..., Forked], tmp_path: Path) -> None:
    parent = start("--set", "task.train=nowhere.jsonl")
    assert parent.wait() == 2
    assert "missing file" in parent.said.read_text()
    assert not (tmp_path / "out.tries" / "2.log").exists()
