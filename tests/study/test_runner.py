"""Studies run every cell once, record failures, survive kills, and leave nothing behind."""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import signal
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from peft import PeftModel
from typer.testing import CliRunner

from forked import Forked
from telltune.cli import app
from telltune.data.task import load_split
from telltune.errors import StorageError
from telltune.evaluation.drift import Drift
from telltune.evaluation.score import Answers
from telltune.fitting.output_folder import lock_folder
from telltune.study import worker
from telltune.study.cell_data import CellData
from telltune.study.cluster import Cluster
from telltune.study.planning import plan_cells
from telltune.study.results import RESULTS, ResultRow, Results
from telltune.study.runner import run_cells
from telltune.study.scoring import Answered, score_cell
from telltune.study.spec import Cell, ForgettingSpec, StudySpec, cells_of
from telltune.study.statistics.summary import summarize
from telltune.study.trained_cell import TrainedCell
from telltune.study.verbs import report, run_study
from telltune.study.worker import CellWorker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from chat_server import ChatServer
    from telltune.data.examples import Example
    from telltune.data.files import Split
    from telltune.data.report import ReadReport
    from telltune.recipe import Recipe

FEW = ForgettingSpec(examples=4, prompts=0)
NONE = ForgettingSpec(examples=0)
ASKED = ForgettingSpec(examples=4, prompts=2)
"""With answers of the tiny model, which never end: they take longer than its training."""
DRIFT = [one.name for one in fields(Drift)]


@pytest.fixture
def study(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a study whose cells take a second or less."""
    return {
        "recipe": toy_recipe | {"mixture": {"leverage_ratio": 1.0, "passes": 1}},
        "methods": ["base", "sft_anchor", "tell"],
        "sizes": [300, 600],
        "seeds": [0, 1],
    }


def cells(study: dict[str, Any], **changes: Any) -> list[Cell]:
    return cells_of(StudySpec.model_validate(study | changes))


def without_time(row: ResultRow) -> dict[str, Any]:
    return {name: value for name, value in vars(row).items() if name != "seconds"}


def test_every_cell_has_a_row_that_says_what_it_is(study: dict[str, Any], tmp_path: Path) -> None:
    wanted = cells(study, methods=["base", "tell"])
    rows = run_cells(wanted, ASKED, tmp_path / "out", progress=False)
    assert [(r.name, r.size, r.seed, r.status) for r in rows] == [
        (c.name, c.size, c.seed, "done") for c in wanted
    ]
    by_cell = {(row.name, row.size, row.seed): row for row in rows}
    base, tell = by_cell["base", None, 0], by_cell["tell", 600, 1]
    assert base.counts["task_tokens"] == base.counts["trained_tokens"] == 0
    assert 0 < tell.counts["task_tokens"] <= 600
    assert tell.counts["general_tokens"] == pytest.approx(tell.counts["task_tokens"], rel=0.1)
    assert len(tell.per_item[tell.metric]) == 12
    assert tell.score == pytest.approx(sum(tell.per_item["accuracy"]) / 12)
    assert set(tell.curve) == {"step", "task", "general"}
    data = {"train", "dev", "test", "general", "held-out general"}
    asked = {"forgetting examples", "forgetting prompts"}
    assert set(tell.hashes) == {*data, *asked, "model", "base"}
    # Three labels: an answer in the task's format can be recognized.
    assert set(tell.forgetting) == {
        f"{what}_{when}"
        for what in ("general_nll", "leakage", *DRIFT)
        for when in ("before", "after")
    }
    assert base.forgetting["drift_after"] == 0 < tell.forgetting["drift_after"]
    assert base.forgetting["general_nll_before"] == base.forgetting["general_nll_after"]
    assert tell.forgetting["general_nll_before"] != tell.forgetting["general_nll_after"]
    assert any("none of the 3 labels" in warning for warning in base.warnings)
    assert not (tmp_path / "out" / "work").exists() or not any((tmp_path / "out/work").iterdir())


def test_nothing_is_written_that_only_an_adapters_user_reads(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telltune.fitting.trained_method.save_adapter", None)
    [cell] = cells(study, methods=["tell"], sizes=[300], seeds=[0])
    [row] = run_cells([cell], FEW, tmp_path, progress=False)
    assert row.status == "done"


def test_a_smaller_size_lies_inside_a_larger_and_seeds_draw_anew(study: dict[str, Any]) -> None:
    from telltune.data.task import load_task

    by_seed = {c.seed: load_task(c.recipe).train for c in cells(study) if c.name == "tell"}
    assert by_seed[0] != by_seed[1]
    assert {e.prompt for e in by_seed[0]} == {e.prompt for e in by_seed[1]}


def test_a_cell_that_was_run_without_general_data_is_asked_about_them_later(
    study: dict[str, Any], tmp_path: Path
) -> None:
    study["seeds"], study["sizes"] = [0], [300]
    alone = cells(study, methods=["sft"])
    [first] = run_cells(alone, FEW, tmp_path, progress=False)
    assert first.forgetting == {}
    both = cells(study, methods=["sft", "tell"])
    assert {one.cell.name for one in plan_cells(both, tmp_path, FEW, measure=False)} == {
        *("sft", "tell")
    }
    again = run_cells(both, FEW, tmp_path, progress=False)
    assert [row.name for row in again] == ["sft", "tell"]
    assert again[0].key == first.key
    assert again[0].forgetting
    assert again[0].score == first.score
    assert run_cells(both, FEW, tmp_path, progress=False) == again
    # If less is requested, it stays.
    assert run_cells(alone, FEW, tmp_path, progress=False) == again[:1]


def test_finished_cells_are_not_run_again_and_an_edit_runs_what_is_new(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    run = CellWorker.run

    def counted(self: Any, cell: Cell, key: str) -> ResultRow:
        ran.append(cell.title)
        return run(self, cell, key)

    monkeypatch.setattr(CellWorker, "run", counted)
    study["seeds"], study["sizes"], study["methods"] = [0], [300], ["base", "tell"]
    first = run_cells(cells(study), FEW, tmp_path, progress=False)
    assert len(ran) == 2
    assert run_cells(cells(study), FEW, tmp_path, progress=False) == first
    assert len(ran) == 2
    run_cells(cells(study, sizes=[300, 600]), FEW, tmp_path, progress=False)
    assert ran[2:] == ["train, tell, 600 tokens, ratio 1, seed 0"]
    renamed = cells(study, methods=[{"method": "tell", "name": "ours"}])
    [row] = run_cells(renamed, FEW, tmp_path, progress=False)
    assert (row.name, len(ran)) == ("ours", 3)
    assert without_time(row) | {"name": "tell"} == without_time(first[-1])


def test_changed_data_is_new_work(
    study: dict[str, Any], tmp_path: Path, toy_task: dict[str, Path]
) -> None:
    study["seeds"], study["sizes"], study["methods"] = [0], [300], ["base"]
    [before] = run_cells(cells(study), FEW, tmp_path / "out", progress=False)
    with toy_task["test"].open("a") as file:
        file.write('{"prompt": "item 99 is round", "completion": "ball"}\n')
    [after] = run_cells(cells(study), FEW, tmp_path / "out", progress=False)
    assert after.key != before.key
    assert len(after.per_item["accuracy"]) == len(before.per_item["accuracy"]) + 1


def test_rows_that_an_edit_left_behind_are_neither_averaged_nor_compared(
    study: dict[str, Any], tmp_path: Path, toy_task: dict[str, Path]
) -> None:
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    study |= {"methods": ["base", "sft"], "sizes": [300], "forgetting": {"examples": 0}}
    path.write_text(yaml.safe_dump(study))
    summary, _ = run_study(path, out, progress=False)
    assert [(p.name, p.seeds) for p in summary.points] == [("base", 1), ("sft", 2)]
    assert summary.left_out == 0
    study["recipe"]["mixture"]["passes"] = 2
    path.write_text(yaml.safe_dump(study | {"methods": ["sft"], "seeds": [0]}))
    with toy_task["test"].open("a") as file:
        file.write('{"prompt": "item 99 is round", "completion": "ball"}\n')
    summary, [row] = run_study(path, out, progress=False)
    [point] = summary.points
    assert (point.name, point.seeds, point.items) == ("sft", 1, 13)
    assert point.score == pytest.approx(row.score)
    assert summary.left_out == 2
    assert "left out: 2 rows" in report(out).read_text()


def test_changed_dev_data_run_a_cell_again_but_leave_its_key(
    study: dict[str, Any], tmp_path: Path, toy_task: dict[str, Path]
) -> None:
    study["seeds"], study["sizes"], study["methods"] = [0], [300], ["base"]
    out = tmp_path / "out"
    [before] = run_cells(cells(study), FEW, out, progress=False)
    with toy_task["dev"].open("a") as file:
        file.write('{"prompt": "item 99 is round", "completion": "ball"}\n')
    [after] = run_cells(cells(study), FEW, out, progress=False)
    assert after.key == before.key
    assert after.hashes["dev"] != before.hashes["dev"]
    # A row of an earlier version, which did not record the hash, stays valid.
    early = replace(after, hashes={**after.hashes, "train": before.hashes["train"]})
    del early.hashes["dev"]
    Results(out).append(early)
    assert run_cells(cells(study), FEW, out, progress=False) == [early]


def test_another_base_template_or_dev_data_run_a_cell_again(
    study: dict[str, Any], tmp_path: Path
) -> None:
    base, template = tmp_path / "base", tmp_path / "template.jinja"
    shutil.copytree(study["recipe"]["model"], base)
    template.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    study |= {"methods": ["base"], "seeds": [0], "sizes": [300]}
    recipe = study["recipe"] | {"model": {"name": str(base)}}

    def run(recipe: dict[str, Any]) -> ResultRow:
        [row] = run_cells(cells(study, recipe=recipe), NONE, tmp_path / "out", progress=False)
        return row

    first = run(recipe)
    with_template = run(recipe | {"model": {"name": str(base), "chat_template": str(template)}})
    assert with_template.key == first.key
    assert "chat template" in with_template.hashes
    again = run(recipe)
    assert "chat template" not in again.hashes
    assert run(recipe) == again
    task = {name: where for name, where in recipe["task"].items() if name != "dev"}
    without_dev = run(recipe | {"task": task})
    assert "dev" in again.hashes
    assert "dev" not in without_dev.hashes
    with_dev = run(recipe)
    assert "dev" in with_dev.hashes
    weights = next(base.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-8:] = bytes(8)
    weights.write_bytes(data)
    other = run(recipe)
    assert other.key == with_dev.key
    assert other.hashes["base"] != with_dev.hashes["base"]


def test_a_row_measures_forgetting_as_the_study_asks(study: dict[str, Any], tmp_path: Path) -> None:
    cell, tell = cells(study, methods=["base", "tell"], sizes=[300], seeds=[0])

    def run(forgetting: ForgettingSpec) -> ResultRow:
        [row] = run_cells([cell], forgetting, tmp_path, general=tell.recipe, progress=False)
        return row

    few = run(FEW)
    assert "drift_after" not in few.forgetting
    more = run(FEW.model_copy(update={"examples": 8}))
    assert more.forgetting["general_nll_after"] != few.forgetting["general_nll_after"]
    asked = run(ASKED.model_copy(update={"examples": 8}))
    assert "drift_after" in asked.forgetting
    # If less is requested, it stays; and so do scores if more cannot be measured.
    assert run(FEW.model_copy(update={"examples": 8})) == asked
    assert run(NONE) == asked
    failed = run(ForgettingSpec(examples=10_000, prompts=0))
    assert failed.status == "failed"
    assert Results(tmp_path).rows == [asked]


def test_a_cell_that_fails_is_recorded_and_the_rest_goes_on(
    study: dict[str, Any], tmp_path: Path
) -> None:
    study["seeds"], study["sizes"] = [0], [300]
    # At such a ratio, no general example of 300 tokens fits.
    greedy = {"method": "tell", "name": "greedy", "set": {"mixture.leverage_ratio": 10_000}}
    rows = run_cells(cells(study, methods=[greedy, "base"]), FEW, tmp_path, progress=False)
    by_name = {row.name: row for row in rows}
    assert by_name["base"].status == "done"
    assert by_name["greedy"].status == "failed"
    assert "leverage ratio" in by_name["greedy"].reason
    assert "Traceback" in (tmp_path / "failures" / f"{by_name['greedy'].key}.txt").read_text()


def test_an_unforeseen_error_leaves_no_adapter_for_the_next_cell(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study["seeds"], study["sizes"], study["methods"] = [0], [300], ["tell", "sft"]
    tell, sft = cells(study)
    [alone] = run_cells([sft], FEW, tmp_path / "a", general=tell.recipe, progress=False)
    evaluate = worker.answer_items

    def breaks(predictor: Any, *rest: Any, **more: Any) -> Any:
        if predictor.anchor is not None:
            raise MemoryError("no room")
        return evaluate(predictor, *rest, **more)

    monkeypatch.setattr(worker, "answer_items", breaks)
    [broken, after] = run_cells([tell, sft], FEW, tmp_path / "b", progress=False)
    assert broken.reason == "MemoryError: no room"
    assert without_time(after) == without_time(alone)


def test_answers_that_cannot_be_scored_are_a_failed_cell(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study["seeds"], study["sizes"], study["methods"] = [0], [300], ["base"]

    def breaks(*_: Any) -> None:
        raise ZeroDivisionError("nothing to divide by")

    with monkeypatch.context() as patched:
        patched.setattr(Answers, "score", breaks)
        [row] = run_cells(cells(study), FEW, tmp_path, progress=False)
    assert (row.status, row.reason) == ("failed", "ZeroDivisionError: nothing to divide by")
    assert "ZeroDivisionError" in (tmp_path / "failures" / f"{row.key}.txt").read_text()
    [row] = run_cells(cells(study), FEW, tmp_path, progress=False)
    assert row.status == "done"


def test_a_cluster_begins_with_the_longest_and_gets_only_what_is_left(
    study: dict[str, Any], tmp_path: Path
) -> None:
    class Recorder(Cluster):
        def run(self, cells: Mapping[str, Cell], *_: Any) -> Iterator[Any]:
            given.extend(cells.values())
            yield from ()

    given: list[Cell] = []
    asked = cells(study, seeds=[0])
    out = tmp_path / "out"
    none = ForgettingSpec(examples=0, prompts=0)
    [first] = run_cells(asked[:1], none, out, progress=False)
    assert (first.name, first.size) == ("base", None)
    # The smaller cell was slow with another seed, and the larger one fast.
    for size, seconds in ((300, 900.0), (600, 9.0)):
        row = replace(first, key=f"{size}", name="tell", size=size, leverage_ratio=1.0, seed=7)
        Results(out).append(replace(row, seconds={"training": seconds}))
    run_cells(asked, none, out, progress=False, elsewhere=Recorder(cpus=1, gpus=0).run)
    assert (given[0].name, given[0].size) == ("tell", 300)
    assert {c.name for c in given} == {"sft_anchor", "tell"}
    assert len(given) == 4


def test_two_at_once_are_refused(study: dict[str, Any], tmp_path: Path) -> None:
    with (
        lock_folder(tmp_path),
        pytest.raises(StorageError, match=f"in use by process {os.getpid()} on "),
    ):
        run_cells(cells(study), FEW, tmp_path, progress=False)


def test_a_study_and_its_plan_read_each_split_once(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(recipe: Recipe, split: Split, report: ReadReport) -> list[Example]:
        read.append(split)
        return load_split(recipe, split, report)

    monkeypatch.setattr("telltune.data.task.load_split", counted)
    study |= {"methods": ["base", "knn"], "forgetting": {"examples": 0}}
    study["recipe"]["task"] |= {"max_examples": 20, "unlabeled": "rest"}
    path, planned = tmp_path / "study.yaml", []
    path.write_text(yaml.safe_dump(study))
    run_study(path, tmp_path / "out", progress=False, on_plan=planned.append)
    assert [(plan["cells"], plan["finished"]) for plan in planned] == [(5, 0)]
    assert sorted(read) == ["dev", "test", "train"]
    run_study(path, tmp_path / "out", progress=False, on_plan=planned.append)
    assert planned[1]["finished"] == 5
    assert len(read) == 6


def test_the_commands_in_a_report_run_in_its_folder(
    study: dict[str, Any],
    tmp_path: Path,
    toy_task: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, out = tmp_path / "study.yaml", tmp_path / "runs" / "my study"
    task = {split: toy_task[split].name for split in ("train", "test")}
    (tmp_path / "model").symlink_to(study["recipe"]["model"])
    study["recipe"] |= {"model": "./model", "task": task}
    study |= {"methods": ["base"], "forgetting": {"examples": 0}}
    path.write_text(yaml.safe_dump(study))
    run_study(path, out, progress=False)
    monkeypatch.chdir(out)
    [shown] = re.findall(
        '<pre class="command">(.*?)</pre>', Path("report.html").read_text(), re.DOTALL
    )
    again, rewritten = (
        CliRunner().invoke(app, shlex.split(command)[1:]) for command in shown.splitlines()
    )
    assert (again.exit_code, rewritten.exit_code) == (0, 0), again.output + rewritten.output
    assert "1, 1 of them finished" in again.output


@pytest.mark.parametrize("name", ["study.yaml", "report.html"])
def test_files_that_are_not_of_a_study_are_not_written_over(
    study: dict[str, Any], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    text = f"# mine\n{yaml.safe_dump(study)}"
    (out / name).write_text(text)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    with pytest.raises(StorageError, match="mine contains files that telltune did not write"):
        run_study(path, out, progress=False)
    assert {file.name: file.read_text() for file in out.iterdir()} == {name: text}


def test_killed_at_a_random_moment_it_gives_the_same_rows(
    study: dict[str, Any], tmp_path: Path
) -> None:
    study["recipe"]["training"]["save_steps"] = 1
    study["seeds"], study["sizes"], study["methods"] = [0, 1, 2, 3], [600], ["tell"]
    whole = run_cells(cells(study), FEW, tmp_path / "whole", progress=False)
    path, killed = tmp_path / "study.yaml", tmp_path / "killed"
    path.write_text(yaml.safe_dump(study | {"forgetting": FEW.model_dump()}))
    victim = Forked("study", path, "--out", killed, said=tmp_path / "said.txt")
    # After the first row, any moment is suitable while others are missing.
    victim.until(lambda: (killed / RESULTS).exists() and (killed / RESULTS).stat().st_size > 0)
    a_cell = sum(whole[-1].seconds.values())
    time.sleep(random.Random(os.urandom(8)).uniform(0, a_cell))
    victim.signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    before = len(Results(tmp_path / "killed").rows)
    again = run_cells(cells(study), FEW, tmp_path / "killed", progress=False)
    assert 0 < before < len(again)
    for one, other in zip(again, whole, strict=True):
        assert without_time(one) == without_time(other)


def test_methods_that_train_nothing_and_controls_can_be_studied(
    study: dict[str, Any], tmp_path: Path, untrained: list[str], server: ChatServer
) -> None:
    study["seeds"], study["sizes"] = [0], [300]
    study["recipe"]["teacher"] = {"url": server.url, "model": "large"}
    study["recipe"]["over_prompt"] = {"inputs": 2}
    study["recipe"]["evaluation"] = {"max_items": 2}
    study["recipe"]["task"]["unlabeled"] = "rest"
    methods = [*untrained, "sft_anchor", "sft_anchor_steps", "tell", "general_only"]
    rows = run_cells(cells(study, methods=methods), FEW, tmp_path, progress=False)
    assert [(row.name, row.reason) for row in rows if row.status == "failed"] == []
    by_name = {row.name: row for row in rows}
    steps = {name: row.counts["optimizer_steps"] for name, row in by_name.items()}
    assert steps["sft_anchor"] < steps["sft_anchor_steps"]
    assert abs(steps["sft_anchor_steps"] - steps["tell"]) <= steps["sft_anchor"]
    assert by_name["sft_anchor_steps"].counts["general_tokens"] == 0
    assert by_name["few_shot"].counts["task_tokens"] > 0
    assert by_name["few_shot"].counts["trained_tokens"] == 0
    general = by_name["general_only"].counts
    assert general["trained_tokens"] == general["general_tokens"] > 0


def test_every_weight_may_be_trained_and_the_next_cell_has_the_base_again(
    study: dict[str, Any], tmp_path: Path
) -> None:
    study["seeds"], study["sizes"] = [0], [300]
    whole = {"method": "sft", "name": "all weights", "set": {"training.full_parameters": True}}
    rows = run_cells(
        cells(study, methods=[whole, "sft", "base", "tell"]), FEW, tmp_path, progress=False
    )
    by_name = {row.name: row for row in rows}
    assert {row.status for row in rows} == {"done"}
    before = {row.forgetting["general_nll_before"] for row in rows}
    assert before == {by_name["base"].forgetting["general_nll_after"]}
    after = {row.forgetting["general_nll_after"] for row in rows}
    assert len(after) == 4


def test_the_perplexity_of_a_summary_is_that_of_its_row(
    study: dict[str, Any], tmp_path: Path
) -> None:
    study["recipe"]["evaluation"] = {"metrics": ["perplexity"], "max_items": 4}
    [row] = run_cells(cells(study, methods=["base"]), FEW, tmp_path, progress=False)
    assert len(row.reference_tokens) == 4
    [point] = summarize(tmp_path).points
    assert point.score == pytest.approx(row.score, rel=1e-5)


def test_too_little_general_data_to_hold_any_out_is_told_before_training(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study["seeds"], study["sizes"] = [0], [300]
    monkeypatch.setattr("telltune.training.run.train", lambda *_, **__: pytest.fail("trained"))
    many = ForgettingSpec(examples=200, prompts=2)
    [row] = run_cells(cells(study, methods=["tell"]), many, tmp_path, progress=False)
    assert "too few to train on" in row.reason


def test_a_cell_that_one_process_trained_is_answered_alike_by_another(
    study: dict[str, Any], tmp_path: Path
) -> None:
    [cell] = cells(study, methods=["tell"], sizes=[300], seeds=[0])
    training, answering, whole = (
        CellWorker(CellData(ASKED, "test", cell.recipe), tmp_path / name)
        for name in ("a", "b", "c")
    )
    trained = training.train(cell, "key")
    assert isinstance(trained, TrainedCell)
    answered = answering.answer(cell, "key", trained)
    assert isinstance(answered, Answered)
    row = score_cell(answered, tmp_path / "b")
    assert without_time(row) == without_time(whole.run(cell, "key"))
    assert sum(row.seconds.values()) > trained.seconds > row.seconds["training"] > 0
    # The next cell gets the base as it was.
    assert not isinstance(answering.base(cell.recipe).model, PeftModel)
    training.data.forgetting = ForgettingSpec(examples=200, prompts=2)
    training.data._held.clear()
    failed = training.train(cell, "key")
    assert isinstance(failed, ResultRow)
    assert "too few to train on" in failed.reason
