"""A study's plan counts the cells that are left, and names those that cannot run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from telltune.study.planning import plan_cells
from telltune.study.runner import run_cells
from telltune.study.spec import ForgettingSpec, StudySpec, cells_of

if TYPE_CHECKING:
    from pathlib import Path


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
    planned = plan_cells(cells, tmp_path, measure=False)
    assert [one.cell for one in planned] == cells
    assert {one.answering_seconds for one in planned} == {None}
    trained = {one.cell.size: one.trained_tokens for one in planned if one.cell.name == "tell"}
    rows = run_cells(cells[:2], ForgettingSpec(examples=4, prompts=2), tmp_path, progress=False)
    assert trained[300] == rows[1].counts["trained_tokens"]
    left = plan_cells(cells, tmp_path, measure=False)
    assert [one.cell for one in left] == cells[2:]
    assert all((one.answering_seconds or 0) > 0 for one in left)
    # The machine has now trained such a model.
    assert all(one.training_seconds is not None for one in left)


def test_what_cannot_run_is_said_beforehand(study: dict[str, Any]) -> None:
    study["methods"][2]["set"] = {"mixture.leverage_ratio": 10_000}
    planned = plan_cells(cells_of(StudySpec.model_validate(study)), None, measure=False)
    problems = {one.cell.name: one.problem for one in planned}
    assert "leverage ratio" in problems.pop("greedy")
    assert set(problems.values()) == {""}
