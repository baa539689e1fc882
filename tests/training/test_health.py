"""Skipped examples are named by file and line, as far as these are known."""

from __future__ import annotations

import json
import math
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from telltune.data.examples import Example
from telltune.data.mixture import Mixture
from telltune.errors import DataError, RecipeError
from telltune.training.callbacks import HealthCallback, LeftOut, UnhealthyStepError, spike_of
from telltune.training.training_data import step_places

if TYPE_CHECKING:
    from collections.abc import Iterator

MIXTURE = Mixture(4, 4, 9, passes=1, order="shuffled", seed=0, batch_size=2)
TASK = [Example("a", "b", origin=f"task.jsonl:{n + 1}") for n in range(4)]
GENERAL = [Example("a", "b", origin=f"general.jsonl:{n + 1}") for n in range(9)]


def names(general: object, log: Path) -> list[str]:
    left_out = LeftOut(log, MIXTURE, (TASK, general))  # type: ignore[arg-type]
    for step in (1, 2, 3):
        left_out.add(UnhealthyStepError(step, "the loss is nan"))
    return [name for told in left_out.steps.values() for name in told["examples"]]


def test_examples_are_named_by_file_and_line(tmp_path: Path) -> None:
    found = names(GENERAL, tmp_path / "log")
    places = [place for step in range(3) for place in step_places(MIXTURE, step)]
    assert found == [(TASK if is_task else GENERAL)[i].origin for is_task, i in places]
    assert {name.partition(":")[0] for name in found} == {"task.jsonl", "general.jsonl"}


def test_general_data_that_are_gone_are_named_by_their_number(tmp_path: Path) -> None:
    def gone() -> Iterator[Example]:
        yield GENERAL[0]
        raise DataError("no such file")

    found = names(gone(), tmp_path / "log")
    for name, other in zip(found, names(GENERAL, tmp_path / "log"), strict=True):
        number = int(other.rpartition(":")[2]) - 1
        assert name in (other, f"general example {number}")
    assert any(name.startswith("general example") for name in found)


def test_the_log_tells_what_was_left_out_before(tmp_path: Path) -> None:
    log, told = tmp_path / "log.jsonl", {"reason": "r", "examples": ["task.jsonl:1"]}
    rows = [{"step": 1, "loss": 2.0}, *({"step": n, "skipped": told} for n in (2, 3, 4))]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 5, "lo')
    left_out = LeftOut(log, MIXTURE, (TASK, GENERAL))
    assert left_out.steps == {2: told, 3: told, 4: told}
    with pytest.raises(RecipeError, match=r"at step 1 the loss is inf, after 3 .*step 2: r, task"):
        left_out.add(UnhealthyStepError(1, "the loss is inf"))


@pytest.mark.parametrize(
    ("loss", "norm", "source", "ill"),
    [
        (2.0, 1.0, 2.0, False),
        (math.nan, 1.0, 2.0, True),
        (math.inf, 1.0, 2.0, True),
        (2.0, math.inf, 2.0, True),
        # Worse than guessing, as after a few wrong labels, and three times as bad.
        (2.0, None, 1.5 * math.log(400), False),
        (2.0, None, 3.1 * math.log(400), True),
    ],
)
def test_what_is_ill(loss: float, norm: float | None, source: float, ill: bool) -> None:
    health = HealthCallback(400, {"loss_task": source})
    state = SimpleNamespace(global_step=7, log_history=[{}])

    def look() -> None:
        health.on_log(None, state, None, logs={"loss": loss, "grad_norm": norm})

    if ill:
        with pytest.raises(UnhealthyStepError, match=r"^step 7: "):
            look()
    else:
        look()


STUDY = Path(__file__).parents[2] / "benchmarks" / "study" / "rows.tar.xz"


@pytest.fixture(scope="module")
def recorded() -> list[list[dict[str, float]]]:
    """Return the loss curves of real runs of the embedded model, as if means were medians."""
    runs = []
    with tarfile.open(STUDY) as archive:
        file = archive.extractfile("results.jsonl")
        assert file is not None
        for line in file.read().decode().splitlines():
            curve = json.loads(line).get("curve") or {"step": []}
            if curve["step"] and curve["step"] == list(range(1, len(curve["step"]) + 1)):
                columns = {s: curve[s] for s in ("task", "general") if s in curve}
                runs.append(
                    [
                        {f"median_{s}": c[i] for s, c in columns.items() if c[i] is not None}
                        for i in range(len(curve["step"]))
                    ]
                )
    return runs


def test_no_healthy_run_has_a_spike(recorded: list[list[dict[str, float]]]) -> None:
    assert len(recorded) > 100
    assert not any(spike_of(row, run[:i]) for run in recorded for i, row in enumerate(run))


@pytest.mark.parametrize(("nats", "share"), [(2, 0.6), (4, 0.7), (8, 0.9)])
def test_injected_spikes_are_found_the_more_the_larger(
    recorded: list[list[dict[str, float]]], nats: float, share: float
) -> None:
    """A spike raises each source of the last step of a run, after the loss has fallen."""
    long = [run for run in recorded if len(run) > 30]
    found = [
        spike_of({name: value + nats for name, value in run[-1].items()}, run[:-1]) for run in long
    ]
    assert sum(map(bool, found)) / len(long) > share
    assert all("nats, but at most" in told for told in found if told)


def test_a_spike_raises_every_source_that_is_known() -> None:
    history = [{"median_task": 0.1, "median_general": 1.2 + n % 3 / 10} for n in range(20)]
    assert not spike_of({"median_task": 6.0, "median_general": 1.3}, history)
    assert not spike_of({"median_task": 1.5}, history)
    told = spike_of({"median_task": 6.0, "median_general": 7.0}, history)
    assert told == (
        "the median loss of general tokens is 7.0 nats, but at most 1.4 in nine of ten recent "
        "steps and the median loss of task tokens is 6.0 nats, but at most 0.1 in nine of ten "
        "recent steps"
    )


def test_without_enough_steps_there_is_no_spike() -> None:
    history = [{"median_task": 0.1}] * 7
    assert not spike_of({"median_task": 9.0}, history)
    assert spike_of({"median_task": 9.0}, [*history, {"median_general": 3.0}, *history[:1]])
    assert spike_of({"median_task": 9.0, "median_general": 3.0}, history * 2)


def test_the_callback_compares_with_the_steps_before() -> None:
    measured = {"loss_task": 9.0, "median_task": 9.0}
    state = SimpleNamespace(global_step=9, log_history=[{"median_task": 0.1}] * 8 + [measured])
    with pytest.raises(UnhealthyStepError, match=r"^step 9: the median loss of task tokens is 9"):
        HealthCallback(400, measured).on_log(None, state, None, logs={"loss": 9.0})
