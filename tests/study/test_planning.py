"""A study's plan counts the cells that are left, and names those that cannot run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from telltune.recipe import recipe_from_dict
from telltune.study.planning import expected_seconds, plan_cells, sizes_above
from telltune.study.results import ResultRow
from telltune.study.runner import run_cells
from telltune.study.spec import Cell, ForgettingSpec, StudySpec, cells_of

if TYPE_CHECKING:
    from pathlib import Path


FEW = ForgettingSpec(examples=4, prompts=2)


@pytest.fixture
def study(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    return {
        "recipe": toy_recipe,
        "methods": ["base", "tell", {"method": "tell", "name": "greedy"}],
        "sizes": [300],
    }


def test_finished_cells_are_left_out_and_tell_how_long_answering_takes(
    study: dict[str, Any], tmp_path: Path
) -> None:
    cells = cells_of(StudySpec.model_validate(study | {"sizes": [300, 600]}))
    planned = plan_cells(cells, tmp_path, FEW, measure=False)
    assert [one.cell for one in planned] == cells
    assert {one.answering_seconds for one in planned} == {None}
    trained = {one.cell.size: one.trained_tokens for one in planned if one.cell.name == "tell"}
    rows = run_cells(cells[:2], FEW, tmp_path, progress=False)
    assert trained[300] == rows[1].counts["trained_tokens"]
    left = plan_cells(cells, tmp_path, FEW, measure=False)
    # `greedy` is the same work as `tell`, whose row it gets.
    assert [one.cell for one in left] == cells[3:]
    assert all((one.answering_seconds or 0) > 0 for one in left)
    # The machine has now trained such a model.
    assert all(one.training_seconds is not None for one in left)


@pytest.mark.parametrize("edit", ["learning rate", "data"])
def test_cells_that_an_edit_changed_are_left_and_those_that_it_renamed_are_not(
    study: dict[str, Any], tmp_path: Path, toy_task: dict[str, Path], edit: str
) -> None:
    none = ForgettingSpec(examples=0)
    study["methods"] = ["base", "tfidf_linear"]
    run_cells(cells_of(StudySpec.model_validate(study)), none, tmp_path / "out", progress=False)
    study["methods"] = ["base", {"method": "tfidf_linear", "name": "words"}]
    if edit == "data":
        with toy_task["test"].open("a") as file:
            file.write('{"prompt": "item 99 is round", "completion": "ball"}\n')
    else:
        study["methods"][1]["set"] = {"training.learning_rate": 0.5}
    cells = cells_of(StudySpec.model_validate(study))
    planned = plan_cells(cells, tmp_path / "out", none, measure=False)
    assert [one.cell for one in planned] == (cells if edit == "data" else cells[1:])


def test_too_little_general_data_to_hold_any_out_is_said_beforehand(study: dict[str, Any]) -> None:
    cells = cells_of(StudySpec.model_validate(study | {"methods": ["sft", "tell"]}))
    many = ForgettingSpec(examples=200)
    problems = {one.cell.name: one.problem for one in plan_cells(cells, None, many, measure=False)}
    assert "too few to train on" in problems["tell"]


def test_a_training_that_two_cells_share_is_counted_once(study: dict[str, Any]) -> None:
    study["methods"] = ["sft", "tell", "tell_product", "sft_product"]
    planned = plan_cells(cells_of(StudySpec.model_validate(study)), None, FEW, measure=False)
    trained = {one.cell.name: one.trained_tokens for one in planned}
    assert trained["tell_product"] == trained["sft_product"] == 0
    assert trained["tell"] > trained["sft"] > 0
    # Answers to dev items choose the checkpoint, and the products answer in another way.
    study["recipe"] = study["recipe"] | {
        "training": study["recipe"]["training"] | {"early_stopping": True}
    }
    planned = plan_cells(cells_of(StudySpec.model_validate(study)), None, FEW, measure=False)
    assert all(one.trained_tokens > 0 for one in planned)


@pytest.mark.parametrize(
    ("above", "said"),
    [
        ([], None),
        ([50_000], r"train: cells of 50,000 task tokens train on all of its ([\d,]+) tokens\."),
        (
            [50_000, 9_000],
            r"of 9,000, 50,000 .* all of its ([\d,]+) tokens and do equal work; keep",
        ),
    ],
)
def test_sizes_above_the_data_are_named_once(
    study: dict[str, Any], above: list[int], said: str | None
) -> None:
    study |= {"methods": ["base", "sft", "tell", "tell_product"], "seeds": [0, 1]}
    cells = cells_of(StudySpec.model_validate(study | {"sizes": [300, *above]}))
    planned = plan_cells(cells, None, FEW, measure=False)
    warnings = sizes_above(planned)
    assert len(warnings) == (said is not None)
    for warning in warnings:
        found = re.search(said or "", warning)
        assert found, warning
        assert 300 < int(found[1].replace(",", "")) < 9_000


def test_what_cannot_run_is_said_beforehand(study: dict[str, Any]) -> None:
    study["methods"][2]["set"] = {"mixture.leverage_ratio": 10_000}
    planned = plan_cells(cells_of(StudySpec.model_validate(study)), None, FEW, measure=False)
    problems = {one.cell.name: one.problem for one in planned}
    assert "leverage ratio" in problems.pop("greedy")
    assert set(problems.values()) == {""}


@pytest.mark.parametrize(
    ("method", "task", "said"),
    [
        ("base_anchor", {}, "method `base_anchor` needs an anchor"),
        ("tfidf_linear", {"max_examples": 3}, "method `tfidf_linear` chooses among labels"),
        ("tfidf_em", {}, "method `tfidf_em` needs unlabeled inputs"),
    ],
)
def test_what_an_untrained_method_misses_is_said_beforehand(
    study: dict[str, Any], method: str, task: dict[str, Any], said: str
) -> None:
    recipe = study["recipe"] | {"anchor": None, "task": study["recipe"]["task"] | task}
    spec = StudySpec(recipe=recipe, methods=[method], sizes=[300])
    [planned] = plan_cells(cells_of(spec), None, FEW, measure=False)
    assert said in planned.problem


# Durations: read off rows of the same method, by what they train on.


RECIPE = recipe_from_dict({"task": {"embedded": "answer_kind"}})


def cell(name: str, size: int | None, *, task: str = "routing", ratio: float = 0.0) -> Cell:
    return Cell(task, name, name, size, ratio, 1, RECIPE)


def row(name: str, size: int | None, seconds: float, *, task: str = "routing") -> ResultRow:
    spent = {"training": seconds - 1, "other": 1.0}
    return ResultRow("key", "done", task, name, name, size, None, 0, seconds=spent)


def test_with_no_finished_cell_what_trains_on_most_takes_longest() -> None:
    cells = [cell("sft", 300), cell("base", None), cell("tell", 300, ratio=4.0), cell("sft", 900)]
    assert expected_seconds(cells, []) == [300, 0, 1500, 900]


def test_a_finished_cell_of_the_same_kind_tells_and_between_two_it_is_between() -> None:
    rows = [row("sft", 1000, 90.0), row("sft", 500, 40.0), row("slow", 500, 900.0)]
    cells = [cell("sft", size) for size in (100, 500, 600, 5000)] + [cell("slow", 100)]
    assert expected_seconds(cells, rows) == [40, 40, 50, 90, 900]


def test_another_task_tells_where_the_same_has_no_row_and_any_method_where_none_has() -> None:
    rows = [row("sft", 500, 40.0), row("sft", 500, 70.0, task="other")]
    cells = [cell("sft", 500, task=task) for task in ("routing", "other")]
    assert expected_seconds(cells, rows) == [40, 70]
    assert expected_seconds([cell("sft", 500, task="new")], rows[:1]) == [40]
    assert expected_seconds([cell("tell", 500)], rows[:1]) == [40]


def test_a_cell_that_failed_tells_nothing() -> None:
    failed = ResultRow(
        "key", "failed", "routing", "sft", "sft", 500, None, 0, seconds={"other": 1.0}
    )
    assert expected_seconds([cell("sft", 500)], [failed]) == [500]
