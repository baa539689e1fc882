"""The tiny model learns tasks one after another."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from telltune.cli.console import print_continual
from telltune.errors import RecipeError, StorageError
from telltune.fitting.predictor import Predictor
from telltune.models import load_base
from telltune.recipe import ModelSpec
from telltune.research.continual import learner
from telltune.research.continual.course import ContinualReport, run_continual
from telltune.research.continual.spec import STRATEGIES
from telltune.training import run as trained

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FULL = {"full_parameters": True, "learning_rate": 8e-3}
"""Training of all weights."""


@pytest.fixture
def order(
    toy_recipe: dict[str, Any],
    tmp_path: Path,
    write_jsonl: Callable[..., Path],
    short_chains: None,
) -> Callable[..., Path]:
    """Return a function that writes an order of two tasks: shapes, and parities of numbers."""
    numbers = [{"prompt": f"item {n} is it", "completion": str(n % 2)} for n in range(12)]
    other = str(write_jsonl(tmp_path / "numbers.jsonl", numbers))
    shapes = {k: toy_recipe["task"][k] for k in ("train", "test")}

    def made(passes: int = 1, training: dict[str, Any] | None = None, **changes: Any) -> Path:
        recipe = {k: v for k, v in toy_recipe.items() if k not in ("task", "anchor")}
        recipe["mixture"] = {"leverage_ratio": 0.5, "passes": 1}
        recipe["training"] = recipe["training"] | {"batch_size": 8} | (training or {})
        values = {
            "recipe": recipe,
            "tasks": [
                {
                    "name": "shapes",
                    "task": shapes,
                    "anchor": "Name the shape.",
                    "mixture": {"passes": passes},
                },
                {
                    "name": "numbers",
                    "task": {"train": other, "test": other},
                    "anchor": "Odd or even?",
                },
            ],
            "strategies": ["sequential", "adapters"],
            "general_items": 8,
        } | changes
        path = tmp_path / "order.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return made


@pytest.fixture(scope="module")
def learned_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("learned") / "out"


@pytest.fixture
def learned(order: Callable[..., Path], learned_once: Path, tmp_path: Path) -> Path:
    """Return a copy of the folder of a finished order, which the test may change."""
    if not learned_once.exists():
        run_continual(order(passes=8), learned_once, progress=False)
    return shutil.copytree(learned_once, tmp_path / "learned")


def reported(out: Path) -> ContinualReport:
    return ContinualReport(**json.loads((out / "summary.json").read_text()))


def cut(out: Path, *kept: int) -> None:
    """Remove all rows but some from a folder, as if it had been interrupted."""
    rows = (out / "continual.jsonl").read_text().splitlines(keepends=True)
    (out / "continual.jsonl").write_text("".join(rows[number] for number in kept))


def timeless(report: ContinualReport) -> list[dict[str, Any]]:
    return [row | {"seconds": 0} for row in report.rows]


def test_what_was_learned_first_is_scored_again_after_the_second(learned: Path) -> None:
    report = reported(learned)
    assert report.tasks == ["shapes", "numbers"]
    rows = {row["strategy"]: row for row in report.rows}
    for row in rows.values():
        matrix = row["matrix"]
        assert matrix[0][1] is None
        assert row["overall"] == pytest.approx((matrix[1][0] + matrix[1][1]) / 2, abs=0.01)
        assert row["backward"] == pytest.approx(matrix[1][0] - matrix[0][0], abs=0.01)
        assert row["backward_by_tasks"] == pytest.approx(row["backward"] / 2, abs=0.01)
    # With a separate adapter per task, nothing is forgotten.
    assert rows["adapters"]["backward"] == 0
    assert rows["adapters"]["matrix"][0][0] > 50
    lines = (learned / "continual.jsonl").read_text().splitlines()
    assert len(lines) == 4
    for line in map(json.loads, lines):
        assert line["general_nll"] != line["base_nll"]
        assert 0 <= line["leakage"] <= 1
    assert set(json.loads(lines[1])["scores"]) == {"shapes", "numbers"}
    assert (learned / "adapters" / "sequential-0-2.safetensors").exists()
    assert not (learned / "adapters" / "adapters-0-2.safetensors").exists()


def test_answers_that_are_no_labels_are_told_of_beside_the_scores(
    order: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Predictor, "predict", lambda _, examples, **__: ["no"] * len(examples))
    path, out = order(), tmp_path / "out"
    report = run_continual(path, out, progress=False)
    assert {row["strategy"] for row in report.rows} == {"sequential", "adapters"}
    for row in report.rows:
        first, *_ = [told for told in row["warnings"] if "none of the 3 labels" in told]
        assert first.startswith("shapes, scored after shapes, numbers: 12 of 12 answers")
        assert any(told.startswith("numbers, scored after numbers: ") for told in row["warnings"])
    assert json.loads((out / "summary.json").read_text())["rows"] == report.rows
    assert "none of the 3 labels" in (out / "report.html").read_text()
    print_continual(report)
    told = capsys.readouterr().err
    # Once for both strategies.
    assert told.count("Warning: sequential, adapters: shapes, scored after shapes, numbers: ") == 2
    # A resumed run reports the scores from before the interruption.
    cut(out, 0, 2)
    assert [row["warnings"] for row in run_continual(path, out, progress=False).rows] == [
        row["warnings"] for row in report.rows
    ]


def test_every_other_strategy_runs_with_and_without_an_anchor(
    order: Callable[..., Path], tmp_path: Path
) -> None:
    strategies = [name for name in STRATEGIES if name not in ("sequential", "adapters")]
    tasks = yaml.safe_load(order().read_text())["tasks"]
    del tasks[1]["anchor"]
    # One of three items is a prompt of the task, and the other two are new.
    shown = "item 3 is it"
    beside = tmp_path / "beside.json"
    items = [shown, "Name the capital of Iceland.", "Write a note about the weather."]
    beside.write_text(json.dumps([{"prompt": text, "answer": "ball"} for text in items]))
    ability = {"name": "notes", "task": {"train": str(beside), "test": str(beside)}}
    path = order(strategies=strategies, tasks=tasks, abilities={"instructions": [ability]})
    out = tmp_path / "out"
    report = run_continual(path, out, progress=False)
    assert [row["strategy"] for row in report.rows] == strategies
    for line in map(json.loads, (out / "continual.jsonl").read_text().splitlines()):
        # Abilities are scored after the last task.
        assert bool(line["abilities"]) == (line["number"] == 1)
        if line["abilities"]:
            before, after = line["abilities"]["instructions"]["notes"]
            [row] = [row for row in report.rows if row["strategy"] == line["strategy"]]
            assert row["abilities"] == {"instructions": pytest.approx(after - before, abs=1e-3)}
            told = "notes, scored after numbers: 1 of 3 items occur in the training data; left out."
            assert told in row["warnings"]
    assert "ΔI" in (out / "report.html").read_text()


@pytest.mark.parametrize("max_tokens", [None, 400])
def test_a_published_replay_follows_each_task(
    order: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_tokens: int | None,
) -> None:
    seen: list[list[str]] = []
    train = trained.train

    def recorded(model: Any, recipe: Any, data: Any, options: Any) -> Any:
        used = len(data.task.lengths)
        seen.append([example.prompt for example in options.texts[0][:used]])
        return train(model, recipe, data, options)

    monkeypatch.setattr(trained, "train", recorded)
    changed = yaml.safe_load(order(strategies=["sequential_replay"]).read_text())
    changed["tasks"][0]["task"]["max_tokens"] = max_tokens
    path = tmp_path / "order.yaml"
    path.write_text(yaml.safe_dump(changed))
    run_continual(path, tmp_path / "out", progress=False)
    shapes, first, numbers, second = seen
    assert len(numbers) == 12
    assert (len(shapes) == 24) == (max_tokens is None)
    # General examples, a fifth of the task's number, and a tenth of the earlier task.
    assert len(first) == round(len(shapes) / 5)
    assert not set(first) & set(shapes)
    replayed = [text for text in second if text.startswith("Name the shape.")]
    assert len(replayed) == max(1, round(len(shapes) / 10))
    assert len(second) == 2 + len(replayed)
    assert all(any(text.endswith(shape) for shape in shapes) for text in replayed)


def test_each_task_is_asked_for_answers_of_its_own_length_and_form(
    order: Callable[..., Path],
    tmp_path: Path,
    write_jsonl: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The last task's answers are shorter, and not a closed set.
    free = [{"prompt": f"item {n} is it", "completion": str(n % 10) + "!"} for n in range(12)]
    other = str(write_jsonl(tmp_path / "free.jsonl", free))
    tasks = yaml.safe_load(order().read_text())["tasks"]
    tasks[1]["task"] = {"train": other, "test": other}
    asked: list[tuple[int, str, tuple[str, ...]]] = []
    evaluate = learner.evaluate_predictor

    def recorded(predictor: Any, *arguments: Any, **options: Any) -> Any:
        asked.append((predictor.max_new_tokens, predictor.answer_after, predictor.labels))
        return evaluate(predictor, *arguments, **options)

    monkeypatch.setattr(learner, "evaluate_predictor", recorded)
    path, out = order(tasks=tasks, strategies=["rcl"]), tmp_path / "out"
    report = run_continual(path, out, progress=False)
    assert "learned from its answers alone" in str(report)
    first, first_again, last = asked
    assert first == first_again
    assert first[0] > last[0]
    assert first[1] == "Answer:"
    assert last[1] == ""
    assert first[2]
    assert not last[2]
    # A resumed run scores the same as one without interruption.
    cut(out, 0)
    run_continual(path, out, progress=False)
    assert asked[3:] == [first, last]


def test_a_run_that_was_cut_short_goes_on_as_if_it_had_not(
    order: Callable[..., Path], learned: Path
) -> None:
    whole = reported(learned)
    # After the second task, weights are written before its row.
    cut(learned, 0, 2)
    assert timeless(run_continual(order(passes=8), learned, progress=False)) == timeless(whole)


def test_a_damaged_row_and_those_that_follow_from_it_are_learned_again(
    order: Callable[..., Path], learned: Path
) -> None:
    whole = reported(learned)
    rows = (learned / "continual.jsonl").read_text().splitlines(keepends=True)
    # The strategy `adapters` keeps no weights that a later step needs.
    (learned / "continual.jsonl").write_text("".join([*rows[:2], rows[2][:9] + "\n", rows[3]]))
    assert timeless(run_continual(order(passes=8), learned, progress=False)) == timeless(whole)


def test_a_row_with_an_unusual_line_end_is_one_row(
    order: Callable[..., Path], learned: Path
) -> None:
    path = learned / "continual.jsonl"
    rows = list(map(json.loads, path.read_text().splitlines()))
    rows[0]["warnings"] = {"shapes": ["most often `a\u2028b`."]}
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    before = path.read_bytes()
    report = run_continual(order(passes=8), learned, progress=False)
    assert "a\u2028b" in str(report.rows[0]["warnings"][0])
    assert path.read_bytes() == before


def test_a_folder_of_other_tasks_recipes_or_data_is_refused(
    order: Callable[..., Path], learned: Path, write_jsonl: Callable[..., Path]
) -> None:
    files = {path: path.read_bytes() for path in learned.rglob("*") if path.is_file()}
    spec = yaml.safe_load(order(passes=8).read_text())
    shapes, numbers = spec["tasks"]
    other = {
        "train": str(
            write_jsonl(learned.parent / "new.jsonl", [{"prompt": "a", "completion": "b"}])
        )
    }
    for change, message in (
        (
            {"tasks": [numbers, shapes]},
            r"tasks \['shapes', 'numbers'\], not \['numbers', 'shapes'\]",
        ),
        ({"tasks": [shapes, numbers, numbers | {"name": "more"}]}, "a run with tasks"),
        ({"tasks": [shapes, numbers | {"task": numbers["task"] | other}]}, "data of `numbers`"),
        ({"tasks": [shapes | {"mixture": {"passes": 9}}, numbers]}, "recipe and data of `shapes`"),
        ({"general_items": 9}, "general items 8, not 9"),
    ):
        with pytest.raises(StorageError, match=message):
            run_continual(order(passes=8, **change), learned, progress=False)
    assert files == {path: path.read_bytes() for path in learned.rglob("*") if path.is_file()}
    for damaged in ("[1]", "{"):
        (learned / "settings.json").write_text(damaged)
        with pytest.raises(StorageError, match="learned holds a run with tasks None"):
            run_continual(order(passes=8), learned, progress=False)
    # A folder of an earlier version has no settings.
    whole = reported(learned)
    (learned / "settings.json").unlink()
    assert run_continual(order(passes=8), learned, progress=False) == whole
    # Strategies may be added.
    found = run_continual(
        order(passes=8, strategies=["sequential", "in_context"]), learned, progress=False
    )
    assert [row["strategy"] for row in found.rows] == ["sequential", "in_context"]
    assert found.rows[0] == whole.rows[0]


@pytest.mark.parametrize("name", ["report.html", "summary.json", "continual.jsonl", "tell.json"])
def test_files_that_are_not_of_a_run_are_not_written_over(
    order: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_text('{"mine": 1}\n')
    with pytest.raises(StorageError, match="mine contains files that telltune did not write"):
        run_continual(order(), out, progress=False)
    assert {path.name: path.read_text() for path in out.iterdir()} == {name: '{"mine": 1}\n'}


def test_what_cannot_be_learned_is_refused_before_anything_is(
    order: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    tasks = yaml.safe_load(order().read_text())["tasks"]
    for change, message in (
        ({"tasks": tasks[:1]}, "tasks"),
        ({"tasks": [tasks[0], tasks[0]]}, "the same name"),
        ({"tasks": [tasks[0], tasks[1] | {"lora": {"init": "olora"}}]}, "`lora.init: olora` sets"),
        ({"trace": "nowhere"}, "give two or more `tasks`, or `trace`"),
        ({"strategies": ["sequentail"]}, "strategies"),
        ({"tasks": [tasks[0], tasks[1] | {"task": {"train": tasks[1]["task"]["train"]}}]}, "test"),
    ):
        with pytest.raises(RecipeError, match=message):
            run_continual(order(**change), out, progress=False)
    assert not (out / "continual.jsonl").exists()


def test_a_finished_order_is_told_of_without_its_adapters(
    order: Callable[..., Path], learned: Path
) -> None:
    whole = reported(learned)
    shutil.rmtree(learned / "adapters")
    assert run_continual(order(passes=8), learned, progress=False) == whole


def test_an_adapter_that_is_gone_is_named(order: Callable[..., Path], learned: Path) -> None:
    cut(learned, 0)
    (learned / "adapters" / "sequential-0-1.safetensors").unlink()
    with pytest.raises(StorageError, match="cannot resume"):
        run_continual(order(passes=8), learned, progress=False)


def test_all_weights_can_be_trained_and_a_run_goes_on_as_if_it_had_not_been_cut(
    order: Callable[..., Path],
    toy_recipe: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = load_base(ModelSpec(name=toy_recipe["model"]), "fp32").model.state_dict()
    begun: list[tuple[bool, bool]] = []
    train = trained.train

    def recorded(model: Any, recipe: Any, data: Any, options: Any) -> Any:
        held = model.model.state_dict()
        begun.append((options.start is None, all(torch.equal(held[k], base[k]) for k in base)))
        return train(model, recipe, data, options)

    monkeypatch.setattr(trained, "train", recorded)
    # Each training gets the unchanged base, or, if one model continues, the weights so far.
    fresh = {
        "sequential": [True, False],
        "sequential_replay": [True, False, False, False],
        "adapters": [True, True],
        "in_context": [],
    }
    path, out = order(passes=5, training=FULL, strategies=list(fresh)), tmp_path / "out"
    report = run_continual(path, out, progress=False)
    assert begun == [(start, True) for starts in fresh.values() for start in starts]
    rows = {row["strategy"]: row for row in report.rows}
    assert list(rows) == list(fresh)
    assert rows["adapters"]["backward"] == 0
    for strategy in ("sequential", "adapters"):
        assert rows[strategy]["matrix"][0][0] > 50
    lines = list(map(json.loads, (out / "continual.jsonl").read_text().splitlines()))
    # The base is the same for all, whatever was trained before.
    assert len({line["base_nll"] for line in lines}) == 1
    for line in lines:
        assert (line["general_nll"] == line["base_nll"]) == (line["strategy"] == "in_context")
    kept = load_file(out / "adapters" / "sequential-0-2.safetensors")
    assert kept.keys() == base.keys()
    # Without the second rows of `sequential` and `adapters`.
    cut(out, 0, 2, 3, 4, 6, 7)
    assert timeless(run_continual(path, out, progress=False)) == timeless(report)


def test_all_tasks_train_the_same_weights(order: Callable[..., Path], tmp_path: Path) -> None:
    tasks = yaml.safe_load(order().read_text())["tasks"]
    tasks[1]["training"] = FULL
    with pytest.raises(RecipeError, match="full_parameters differs"):
        run_continual(order(tasks=tasks), tmp_path / "out", progress=False)
