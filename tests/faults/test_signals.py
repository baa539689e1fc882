"""SIGINT and SIGTERM leave a checkpoint, a message on resuming, and the signal's exit code."""

from __future__ import annotations

import re
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from victim import STEPS, Left, close_outputs, leave_outputs_unread, log_rows, stand_still

import telltune
from forked import Forked
from telltune.study.results import Results

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_signal_ends_the_run_with_a_checkpoint(
    fit: Callable[..., Forked], recipe: Path, undisturbed: Left, tmp_path: Path
) -> None:
    out, victim = tmp_path / "out", fit()
    log = out / "training_log.jsonl"
    victim.until(lambda: log.exists() and log.read_bytes().count(b"\n") >= 4)
    victim.signal(signal.SIGINT)
    assert victim.wait() == 130
    said = victim.said.read_text()
    found = re.search(r"Stopped after step (\d+) of 12; run the same command to resume\.", said)
    assert found, said
    assert "Traceback" not in said
    step = int(found[1])
    assert (out / "checkpoints" / f"checkpoint-{step}" / "manifest.json").is_file()
    assert [row["step"] for row in log_rows(out)] == list(range(1, step + 1))
    telltune.fit(recipe, out, progress=False)
    assert Left.of(out) == undisturbed
    # Finished steps were not repeated.
    assert 4 <= step <= STEPS


def test_a_second_signal_ends_it_at_once(fit: Callable[..., Forked], tmp_path: Path) -> None:
    victim = fit(first=partial(stand_still, 4))
    log = tmp_path / "out" / "training_log.jsonl"
    victim.until(lambda: log.exists() and log.read_bytes().count(b"\n") == 4)
    victim.signal(signal.SIGINT)
    victim.until(lambda: "Repeat to stop immediately" in victim.said.read_text())
    began = time.monotonic()
    victim.signal(signal.SIGINT)
    assert victim.wait() == 130
    # The step would have taken minutes.
    assert time.monotonic() - began < 60
    assert {path.name for path in (tmp_path / "out" / "checkpoints").iterdir()} >= {"checkpoint-3"}


@pytest.mark.parametrize("fault", [leave_outputs_unread, close_outputs])
def test_a_run_whose_outputs_nobody_reads_stops_and_goes_on_all_the_same(
    fit: Callable[..., Forked],
    undisturbed: Left,
    tmp_path: Path,
    fault: Callable[[], None],
) -> None:
    out, victim = tmp_path / "out", fit(first=fault)
    log = out / "training_log.jsonl"
    victim.until(lambda: log.exists() and log.read_bytes().count(b"\n") >= 4)
    victim.signal(signal.SIGTERM)
    # The other signal has another code.
    assert victim.wait() == 143
    assert list((out / "checkpoints").glob("checkpoint-*/manifest.json"))
    assert fit(first=fault).wait() == 0
    assert Left.of(out) == undisturbed


def test_a_stopped_study_whose_outputs_nobody_reads_has_no_failed_cell(
    short: dict[str, Any], tmp_path: Path
) -> None:
    short["mixture"] = {"leverage_ratio": 1.0, "passes": 4}
    study = {"recipe": short, "methods": ["sft_anchor", "tell"], "sizes": [300], "seeds": [0]}
    study["forgetting"] = {"examples": 4, "prompts": 2}
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")

    def run() -> Forked:
        words = ("study", path, "--out", out)
        return Forked(*words, said=tmp_path / "said.txt", first=leave_outputs_unread)

    victim = run()
    victim.until(lambda: bool(log_lines(out, 4)))
    victim.signal(signal.SIGTERM)
    assert victim.wait() == 143
    assert [row for row in Results(out).rows if row.status == "failed"] == []
    assert run().wait() == 0
    assert [row.status for row in Results(out).rows] == ["done", "done"]


def log_lines(out: Path, least: int) -> list[Path]:
    """Return the logs of a study's cells that have at least so many lines."""
    logs = out.glob("work/*/training_log.jsonl")
    return [log for log in logs if log.read_bytes().count(b"\n") >= least]
