"""Trackers get a run's measurements, and neither they nor their failures change the run."""

from __future__ import annotations

import csv
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback
from typer.testing import CliRunner

import telltune
from telltune.cli import app
from telltune.errors import RecipeError
from telltune.recipe import recipe_from_dict
from telltune.storage import checksum
from telltune.study.compare import compare
from telltune.study.runner import run_cells
from telltune.study.spec import ForgettingSpec, StudySpec, cells_of
from telltune.training import trackers
from telltune.training.log import LOG, read_log
from telltune.training.trackers import TrackedRun, check_trackers, register_tracker
from telltune.verification import verify

pytestmark = pytest.mark.usefixtures("small_batches")

WEIGHTS = "adapter_model.safetensors"
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "tracking.md"


@pytest.fixture
def short(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe of six steps that looks at two dev items, with a checkpoint every two steps."""
    dev = Path(toy_recipe["task"]["dev"])
    dev.write_text("".join(dev.read_text().splitlines(keepends=True)[:2]))
    toy_recipe["task"]["max_examples"] = 8
    toy_recipe["mixture"] = {"general_examples": 8, "passes": 2}
    toy_recipe["lora"]["dropout"] = 0.1
    toy_recipe["training"] |= {"save_steps": 2, "early_stopping": True}
    return toy_recipe


def tracked_by(recipe: dict[str, Any], *names: str) -> dict[str, Any]:
    return recipe | {"training": recipe["training"] | {"report_to": list(names)}}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by name, as TensorBoard shows them."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    names = events.Tags()["scalars"]
    return {name: [(row.step, row.value) for row in events.Scalars(name)] for name in names}


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trackers that a test registers end with it."""
    monkeypatch.setattr(trackers, "_TRACKERS", dict(trackers._TRACKERS))


def test_tensorboard_shows_the_log_and_the_adapter_is_the_same(
    short: dict[str, Any], tmp_path: Path
) -> None:
    telltune.fit(short, tmp_path / "plain", progress=False)
    telltune.fit(tracked_by(short, "tensorboard"), tmp_path / "tracked", progress=False)
    assert checksum(tmp_path / "plain" / WEIGHTS) == checksum(tmp_path / "tracked" / WEIGHTS)
    assert verify(tmp_path / "tracked").held

    log, found = read_log(tmp_path / "tracked" / LOG), scalars(tmp_path / "tracked" / "runs")
    names = {
        "loss": "train/loss",
        "loss_task": "train/loss_task",
        "loss_general": "train/loss_general",
        "median_task": "train/median_task",
        "median_general": "train/median_general",
        "learning_rate": "train/learning_rate",
        "grad_norm": "train/grad_norm",
        "dev_loss": "eval/loss",
        "dev_score": "eval/score",
    }
    for in_log, name in names.items():
        wanted = [(row["step"], row[in_log]) for row in log if in_log in row]
        assert wanted
        assert found.pop(name) == [(step, pytest.approx(value)) for step, value in wanted]
    assert found.pop("train/tokens_per_second") == [
        (row["step"], pytest.approx(row["tokens"] / row["seconds"])) for row in log
    ]
    assert set(found) == {"train/epoch"}


class Killed(TrainerCallback):
    """Ends training in its midst."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 5:
            raise ZeroDivisionError


def test_a_resumed_run_shows_each_step_once(short: dict[str, Any], tmp_path: Path) -> None:
    recipe, out = tracked_by(short, "tensorboard"), tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        telltune.fit(recipe, out, progress=False, callbacks=[Killed()])
    assert [step for step, _ in scalars(out / "runs")["train/loss"]] == [1, 2, 3, 4]
    telltune.fit(recipe, out, progress=False)
    assert [step for step, _ in scalars(out / "runs")["train/loss"]] == [1, 2, 3, 4, 5, 6]


class Fails(TrainerCallback):
    """Loses its server after two steps, and would stop the training."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step > 2:
            raise ConnectionError("no server")


@pytest.mark.usefixtures("plugins")
def test_a_tracker_that_fails_does_not_end_the_run(
    short: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def never(run: TrackedRun) -> TrainerCallback:
        raise OSError(f"no room for {run.name}")

    register_tracker("fails", lambda _: Fails())
    register_tracker("never", never)
    recipe = tracked_by(short, "fails", "never", "tensorboard")
    with caplog.at_level(logging.WARNING, logger="telltune"):
        telltune.fit(recipe, tmp_path / "out", progress=False)
    told = [record for record in caplog.records if record.name == trackers.__name__]
    assert [record.getMessage() for record in told] == [
        "The tracker never fails (OSError: no room for out); training continues without it.",
        "The tracker fails fails (ConnectionError: no server); training continues without it.",
    ]
    assert len(read_log(tmp_path / "out" / LOG)) == 6
    assert len(scalars(tmp_path / "out" / "runs")["train/loss"]) == 6


def test_a_missing_tracker_is_refused_before_training(
    short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    told = "trackio is not installed; run `pip install trackio`"
    study = {"recipe": tracked_by(short, "trackio"), "methods": ["sft"], "sizes": [300]}
    cells = cells_of(StudySpec.model_validate(study))
    for start in (
        lambda: telltune.fit(tracked_by(short, "trackio"), tmp_path / "fit", progress=False),
        lambda: compare(
            tracked_by(short, "trackio"), ["sft"], out=tmp_path / "compare", progress=False
        ),
        lambda: run_cells(cells, ForgettingSpec(), tmp_path / "study", progress=False),
    ):
        with pytest.raises(RecipeError, match=told):
            start()
    with pytest.raises(RecipeError, match="there is no tracker `tensorbord`; choose from tensorb"):
        telltune.fit(tracked_by(short, "tensorbord"), tmp_path / "fit", progress=False)
    assert not list(tmp_path.rglob("checkpoints"))
    # A folder of that name is no package.
    (tmp_path / "trackio").mkdir()
    monkeypatch.delitem(sys.modules, "trackio")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(RecipeError, match=told):
        check_trackers(["trackio"])


def test_report_to_is_a_name_or_a_list(short: dict[str, Any]) -> None:
    for given, wanted in [
        ("wandb", ["wandb"]),
        (["mlflow", "wandb"], ["mlflow", "wandb"]),
        ("none", []),
        (None, []),
    ]:
        short["training"]["report_to"] = given
        assert recipe_from_dict(short).training.report_to == wanted


@pytest.mark.usefixtures("plugins")
def test_each_cell_is_a_run_in_the_group_of_its_study(
    short: dict[str, Any], tmp_path: Path
) -> None:
    seen: list[TrackedRun] = []

    def record(run: TrackedRun) -> TrainerCallback:
        seen.append(run)
        return TrainerCallback()

    register_tracker("record", record)
    out = tmp_path / "study"
    recipe = tracked_by(short, "record", "tensorboard")
    spec = {"recipe": recipe, "methods": ["base", "sft", "tell"], "sizes": [300]}
    cells = cells_of(StudySpec.model_validate(spec))
    rows = run_cells(cells, ForgettingSpec(examples=0), out, progress=False)
    assert [row.status for row in rows] == ["done"] * 3
    trained = [cell.title for cell in cells if cell.method != "base"]
    assert [(run.name, run.group) for run in seen] == [(title, "study") for title in trained]
    assert sorted(path.name for path in (out / "runs").iterdir()) == sorted(trained)
    for row, title in zip(rows[1:], trained, strict=True):
        losses = scalars(out / "runs" / title)["train/loss"]
        assert losses[-1][0] == row.counts["optimizer_steps"]

    seen.clear()
    compare(recipe, ["sft"], out=tmp_path / "compared", progress=False)
    assert seen == [TrackedRun("sft", "compared", tmp_path / "compared" / "runs" / "sft")]


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    module.set_tracking_uri(f"sqlite:///{tmp_path / 'store.db'}")
    yield module
    module.set_tracking_uri(None)


def test_mlflow_has_a_run_for_each_cell(short: dict[str, Any], tmp_path: Path, mlflow: Any) -> None:
    recipe = tracked_by(short, "mlflow")
    telltune.fit(recipe, tmp_path / "alone", progress=False)
    compare(recipe, ["sft", "tell"], out=tmp_path / "compared", progress=False)
    with pytest.raises(ZeroDivisionError):
        telltune.fit(recipe, tmp_path / "killed", progress=False, callbacks=[Killed()])
    mlflow.flush_async_logging()
    client = mlflow.MlflowClient()
    runs = {run.info.run_name: run for run in client.search_runs(["0"])}
    assert {name: (run.info.status, run.data.tags.get("group")) for name, run in runs.items()} == {
        "alone": ("FINISHED", None),
        "sft": ("FINISHED", "compared"),
        "tell": ("FINISHED", "compared"),
        "killed": ("FAILED", None),
    }
    log = read_log(tmp_path / "alone" / LOG)
    for name, in_log in (("loss_task", "loss_task"), ("eval_score", "dev_score")):
        history = client.get_metric_history(runs["alone"].info.run_id, name)
        assert [(row.step, row.value) for row in history] == [
            (row["step"], pytest.approx(row[in_log])) for row in log if in_log in row
        ]


@pytest.mark.usefixtures("plugins")
def test_wandb_has_a_run_for_each_cell(
    short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    seen = []

    class Looks(TrainerCallback):
        """Looks at what Weights & Biases has before its run ends."""

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seen.append((wandb.run.name, wandb.run.group, dict(wandb.run.summary)))

    register_tracker("looks", lambda _: Looks())
    recipe = tracked_by(short, "wandb", "looks")
    compare(recipe, ["sft", "tell"], out=tmp_path / "out", progress=False)
    assert [(name, group) for name, group, _ in seen] == [("sft", "out"), ("tell", "out")]
    assert wandb.run is None
    for name, _, summary in seen:
        log = read_log(tmp_path / "out" / name / LOG)
        assert summary["train/loss"] == pytest.approx(log[-1]["loss"])
        assert summary["eval/loss"] == pytest.approx(log[-1]["dev_loss"])


class Counts(TrainerCallback):
    """Counts steps, and ends training after some of them."""

    def __init__(self, stop_after: int) -> None:
        self.stop_after = stop_after
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logs.append(dict(logs))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop |= state.global_step == self.stop_after


def test_a_callback_sees_the_logs_and_may_end_the_run(
    short: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Counts(stop_after=99)
    telltune.fit(short, tmp_path / "whole", progress=False, callbacks=[whole])
    assert [logs["loss"] for logs in whole.logs] == [
        row["loss"] for row in read_log(tmp_path / "whole" / LOG)
    ]
    assert {"loss_task", "loss_general", "tokens_per_second", "eval_loss"} <= {
        name for logs in whole.logs for name in logs
    }
    for looks in (True, False):
        short["training"]["early_stopping"] = looks
        out = tmp_path / f"cut-{looks}"
        caplog.clear()
        fit = telltune.fit(short, out, progress=False, callbacks=[Counts(stop_after=1)])
        assert "A callback ended training after step 1 of 6." in caplog.text
        assert fit.record["counts"]["optimizer_steps"] == 1
        assert fit.record["early_stopping"] is None
        assert verify(out).held
    assert json.loads((tmp_path / "whole" / "tell.json").read_text())["early_stopping"]


def test_a_baseline_takes_no_callbacks(short: dict[str, Any], tmp_path: Path) -> None:
    short |= {"method": "tfidf_linear"}
    with pytest.raises(RecipeError, match="`tfidf_linear` has no training loop to call back"):
        telltune.fit(short, tmp_path / "out", progress=False, callbacks=[Counts(1)])
    plan = telltune.plan(tracked_by(short, "tensorboard"))
    assert "`training.report_to` is not used: a baseline has no training loop." in plan["warnings"]


@pytest.mark.usefixtures("plugins")
def test_a_plugin_adds_a_tracker(
    short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [code] = re.findall(r"```python\n(# my_tracker.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "my_tracker.py").write_text(code)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tracked_by(short, "loss_table")))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TELLTUNE_PLUGINS", "")
    out = tmp_path / "out"
    fit = ["fit", str(tmp_path / "recipe.yaml"), "--out", str(out)]
    refused = CliRunner().invoke(app, fit)
    assert "there is no tracker `loss_table`" in str(refused.exception)
    ran = CliRunner().invoke(app, ["--plugin", "my_tracker", *fit])
    assert ran.exit_code == 0, ran.output
    with (out / "runs" / "losses.csv").open() as file:
        table = [(int(step), float(loss)) for step, loss in csv.reader(file)]
    assert table == [(row["step"], row["loss"]) for row in read_log(out / LOG)]
    assert verify(out).held
    with pytest.raises(RecipeError, match="tracker `loss_table` is already registered"):
        register_tracker("loss_table", lambda _: TrainerCallback())
