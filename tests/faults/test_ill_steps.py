"""Steps with infinite or exploding losses or gradients are named and skipped, up to a limit."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from victim import STEPS, Left, cut_at

import telltune
from telltune.errors import RecipeError
from telltune.training import trainer
from telltune.training.trainer import MixtureTrainer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch


def not_a_number(nll: torch.Tensor) -> torch.Tensor:
    return nll * float("nan")


def exploding(nll: torch.Tensor) -> torch.Tensor:
    return nll * 100


def broken_gradient(nll: torch.Tensor) -> torch.Tensor:
    nll.register_hook(lambda gradient: gradient * float("inf"))
    return nll


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: Any) -> Callable[..., None]:
    """Return a function that changes the loss of rows that contain a text."""

    def install(text: str, harm: Callable[[torch.Tensor], torch.Tensor]) -> None:
        token_nll = trainer.token_nll

        def poisoned(model: Any, batch: Any, cut: Any = None) -> torch.Tensor:
            nll = token_nll(model, batch, cut)
            return harm(nll) if text in tiny_tokenizer.decode(batch.input_ids[0]) else nll

        monkeypatch.setattr(trainer, "token_nll", poisoned)

    return install


def skipped(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "tell.json").read_text())["skipped"]
    return found


@pytest.mark.parametrize(("harm", "save_steps"), [(exploding, 100), (broken_gradient, 3)])
def test_the_steps_that_hold_a_bad_example_are_named_and_left_out(
    short: dict[str, Any],
    tmp_path: Path,
    poison: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[torch.Tensor], torch.Tensor],
    save_steps: int,
) -> None:
    out = tmp_path / "out"
    # With 100 the only checkpoint is the start.
    short["training"]["save_steps"] = save_steps
    poison("item 11 is", harm)
    with caplog.at_level(logging.WARNING, logger="telltune"):
        telltune.fit(short, out, progress=False)
    rows = Left.of(out).rows
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    left_out = [row for row in rows if "skipped" in row]
    # Two passes, of which both may be in one step.
    assert 1 <= len(left_out) <= 2
    origin = f"{short['task']['train']}:12"
    for row in left_out:
        assert origin in row["skipped"]["examples"]
        assert len(row["skipped"]["examples"]) == 4
        files = {example.rpartition(":")[0] for example in row["skipped"]["examples"]}
        assert files <= {short["task"]["train"], short["general"]}
        assert "loss" not in row
    assert [row["step"] for row in skipped(out)] == [row["step"] for row in left_out]
    assert sum(origin in record.getMessage() for record in caplog.records) == len(left_out)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert max(losses) < 20
    assert len(telltune.predict(out, ["item 4 is square"])) == 1


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of each computed step."""
    steps: list[int] = []
    compute = MixtureTrainer._compute

    def spy(self: MixtureTrainer, *rest: Any) -> torch.Tensor:
        steps.append(self.state.global_step + 1)
        return compute(self, *rest)

    monkeypatch.setattr(MixtureTrainer, "_compute", spy)
    return steps


def test_what_is_left_out_changes_nothing_else(
    short: dict[str, Any],
    undisturbed: Left,
    tmp_path: Path,
    poison: Callable[..., None],
    counted: list[int],
) -> None:
    """Up to the first bad step the run is the healthy one; it then continues without the step."""
    counted.clear()  # the undisturbed run may have come just before
    poison("item 11 is", not_a_number)
    telltune.fit(short, tmp_path / "out", progress=False)
    rows = Left.of(tmp_path / "out").rows
    first = next(i for i, row in enumerate(rows) if "skipped" in row)
    assert rows[:first] == undisturbed.rows[:first]
    assert rows[first + 1] != undisturbed.rows[first + 1]
    # The schedule and the order are unchanged.
    for ours, theirs in zip(rows, undisturbed.rows, strict=True):
        if "skipped" not in ours:
            assert ours["tokens"] == theirs["tokens"]
            assert ours["learning_rate"] == theirs["learning_rate"]
    # It goes back to the last checkpoint and no further.
    assert counted == _attempts([row["step"] for row in skipped(tmp_path / "out")])


def test_cut_short_after_it_a_run_still_ends_the_same(
    short: dict[str, Any],
    tmp_path: Path,
    poison: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poison("item 11 is", not_a_number)
    telltune.fit(short, tmp_path / "whole", progress=False)
    last = skipped(tmp_path / "whole")[-1]["step"]

    def run() -> object:
        return telltune.fit(short, tmp_path / "out", progress=False)

    cut_at(min(last + 1, STEPS), monkeypatch, run)
    run()
    assert Left.of(tmp_path / "out") == Left.of(tmp_path / "whole")
    assert skipped(tmp_path / "out") == skipped(tmp_path / "whole")


def test_every_weight_can_be_brought_back_to_the_start(
    short: dict[str, Any], tmp_path: Path, poison: Callable[..., None]
) -> None:
    short["training"] |= {"full_parameters": True, "save_steps": 100}
    short["training"]["gradient_checkpointing"] = True
    telltune.fit(short, tmp_path / "whole", progress=False)
    poison("item 11 is", broken_gradient)
    telltune.fit(short, tmp_path / "out", progress=False)
    rows, whole = (
        [json.loads(line) for line in (tmp_path / name / "training_log.jsonl").open()]
        for name in ("out", "whole")
    )
    first = next(i for i, row in enumerate(rows) if "skipped" in row)
    for ours, theirs in zip(rows[:first], whole[:first], strict=True):
        assert ours | {"seconds": 0} == theirs | {"seconds": 0}


def test_a_run_that_stays_ill_ends_and_names_its_steps(
    short: dict[str, Any], tmp_path: Path, poison: Callable[..., None]
) -> None:
    poison("item", not_a_number)
    with pytest.raises(RecipeError, match=r"does not stay healthy: .*learning_rate") as ill:
        telltune.fit(short, tmp_path / "out", progress=False)
    said = str(ill.value)
    assert said.count("the loss is nan") == 4
    assert said.count(f"{short['task']['train']}:") >= 4
    assert not (tmp_path / "out" / "tell.json").exists()


def _attempts(bad: list[int]) -> list[int]:
    """Return the computed steps if each step in `bad` fails once and is then skipped."""
    steps: list[int] = []
    known: set[int] = set()
    start = 1
    for failing in [*bad, None]:
        stop = STEPS if failing is None else failing
        steps += [step for step in range(start, stop + 1) if step not in known]
        if failing is not None:
            known.add(failing)
            start = (failing - 1) // 3 * 3 + 1
    return steps
