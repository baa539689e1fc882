"""SIGINT and SIGTERM: a checkpoint, a word on how to go on, and the exit code of a signal."""

from __future__ import annotations

import re
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from victim import STEPS, Left, log_rows, stand_still

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from victim import Victim


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_a_checkpoint(
    fit: Callable[..., Victim], undisturbed: Left, tmp_path: Path, number: int, code: int
) -> None:
    out, victim = tmp_path / "out", fit()
    log = out / "training_log.jsonl"
    victim.until(lambda: log.exists() and log.read_bytes().count(b"\n") >= 4)
    victim.signal(number)
    assert victim.wait() == code
    said = victim.said.read_text()
    found = re.search(
        r"Stopped after step (\d+) of 12; the same command goes on from there\.", said
    )
    assert found, said
    assert "Traceback" not in said
    step = int(found[1])
    assert (out / "checkpoints" / f"checkpoint-{step}" / "manifest.json").is_file()
    assert [row["step"] for row in log_rows(out)] == list(range(1, step + 1))
    again = fit()
    assert again.wait() == 0, again.said.read_text()
    assert Left.of(out) == undisturbed
    # What was done was not done again.
    assert 4 <= step <= STEPS


def test_a_second_signal_ends_it_at_once(fit: Callable[..., Victim], tmp_path: Path) -> None:
    victim = fit(fault=partial(stand_still, 4))
    log = tmp_path / "out" / "training_log.jsonl"
    victim.until(lambda: log.exists() and log.read_bytes().count(b"\n") == 4)
    victim.signal(signal.SIGINT)
    victim.until(lambda: "Once more stops at once" in victim.said.read_text())
    began = time.monotonic()
    victim.signal(signal.SIGINT)
    assert victim.wait() == 130
    # The step would have taken minutes.
    assert time.monotonic() - began < 60
    assert {path.name for path in (tmp_path / "out" / "checkpoints").iterdir()} >= {"checkpoint-3"}
