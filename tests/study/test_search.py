"""A search halves its settings in rounds on dev items, within its budget, and resumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from telltune.errors import DataError
from telltune.recipe import Recipe, as_recipe
from telltune.study.results import ANSWERS, RESULTS, ResultRow, Results, read_answers
from telltune.study.search import (
    Candidate,
    _affordable,
    _better_half,
    _Costs,
    candidates_of,
    search,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("few_asked")

METHODS = ["tell", "sft_anchor", "sft"]


@pytest.fixture
def recipe(toy_recipe: dict[str, Any]) -> Recipe:
    """Return a recipe whose cells take a second or less."""
    mixture, few = {"leverage_ratio": 1.0, "passes": 1}, {"max_items": 4}
    return Recipe.model_validate(toy_recipe | {"mixture": mixture, "evaluation": few})


def prompts(out: Path, row: ResultRow) -> set[str]:
    return {item["prompt"] for item in read_answers(out / ANSWERS, row.key)}


def candidate(method: str, passes: int = 2, ratio: float | None = None) -> Candidate:
    return Candidate(method, 1e-3, passes, ratio)


def test_each_methods_own_settings_come_first_and_no_setting_twice(recipe: Recipe) -> None:
    found = candidates_of(recipe, METHODS)
    assert found[:3] == [
        Candidate("tell", 1e-2, 1, 1.0),
        Candidate("sft_anchor", 1e-2, 1, None),
        Candidate("sft", 1e-2, 1, None),
    ]
    assert [one.method for one in found[3:9]] == METHODS * 2
    assert len(set(found)) == len(found)
    assert found == candidates_of(recipe, METHODS)


def test_other_settings_are_neighbors_of_the_recipes_own(recipe: Recipe) -> None:
    mixture = recipe.mixture.model_copy(update={"passes": 9})
    found = candidates_of(recipe.model_copy(update={"mixture": mixture}), ["sft"])
    tried = {(one.learning_rate, one.passes) for one in found}
    assert tried == {(rate, passes) for rate in (5e-3, 1e-2, 2e-2) for passes in (4, 9, 18)}


def test_half_survives_and_the_best_of_each_method() -> None:
    known = {
        one.name: one
        for one in (
            candidate("sft", 2),
            candidate("sft", 4),
            candidate("tell", 2, 4.0),
            candidate("tell", 4, 4.0),
            candidate("sft_anchor", 2),
        )
    }
    scores = dict(zip(known, (90.0, 80.0, 40.0, 50.0, 10.0), strict=True))
    ranked = dict(sorted(scores.items(), key=lambda item: -item[1]))
    kept = _better_half(ranked, known)
    assert [(known[name].method, scores[name]) for name in kept] == [
        ("sft", 90.0),
        ("sft", 80.0),
        ("tell", 50.0),
        ("sft_anchor", 10.0),
    ]


def test_more_minutes_afford_more_candidates_and_the_least_is_always_tried() -> None:
    tried = [candidate("sft", passes) for passes in (2, 4, 8, 16)]
    # A cell of 2 passes trains for 2, 4 and 8 s at the three sizes, and answers for 1 s.
    costs = _Costs({"sft": 1.0}, 1.0)
    assert costs.seconds(tried[0], 0.25) == 3
    assert costs.seconds(tried[0], 1.0) == 9
    # Two candidates: mean work 3, so 4, 7 and 13 s per cell: 2 x 4 + 1 x 7 + 4 x 13 + 2 x 1.
    assert _affordable(tried, 1, costs, 69, 2) == 2
    assert _affordable(tried, 1, costs, 68, 2) == 1
    assert _affordable(tried, 2, costs, 0, 2) == 2
    assert _affordable(tried, 1, costs, 1e6, 2) == 4


def test_a_search_ends_with_two_methods_on_all_of_the_data_and_runs_nothing_twice(
    recipe: Recipe, tmp_path: Path
) -> None:
    found = search(recipe, METHODS, 1200, tmp_path / "out", minutes=0, progress=False)
    assert [rung.size for rung in found.rungs] == [300, 600, 1200]
    assert [len(rung.scores) for rung in found.rungs] == [3, 3, 2]
    assert {row.seed for row in found.rungs[-1].rows} == {0, 1}
    assert len({row.method for row in found.rungs[-1].rows}) == 2
    assert {row.method for row in found.untrained} == {"base", "few_shot"}
    assert {row.split for row in Results(tmp_path / "out").rows} == {"dev"}
    rows = (tmp_path / "out" / RESULTS).read_bytes()
    again = search(recipe, METHODS, 1200, tmp_path / "out", minutes=0, progress=False)
    assert (tmp_path / "out" / RESULTS).read_bytes() == rows
    assert [rung.scores for rung in again.rungs] == [rung.scores for rung in found.rungs]


def test_with_folds_the_finalists_answer_other_dev_items_under_every_seed(
    toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    toy_recipe["task"] |= {"dev_share": 0.34}
    toy_recipe |= {"general": None, "anchor": None, "mixture": {"passes": 1}}
    del toy_recipe["task"]["dev"]
    recipe, out = as_recipe(toy_recipe), tmp_path / "out"
    found = search(recipe, ["sft"], 600, out, minutes=0, baselines=["knn"], folds=2, progress=False)
    for name in found.rungs[-1].scores | {"knn": 0.0, "base": 0.0}:
        done = [row for row in Results(out).rows if row.name == name and row.status == "done"]
        asked = {row.recipe["task"]["dev_fold"]: prompts(out, row) for row in done}
        assert set(asked) == {0, 1}
        assert asked[0].isdisjoint(asked[1])
    assert {row.recipe["task"]["dev_fold"] for rung in found.rungs[:-1] for row in rung.rows} == {0}


def test_a_search_of_which_nothing_can_run_says_why(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no candidate could be run: .*is too low"):
        search(recipe, ["sft"], 8, tmp_path / "out", minutes=1, progress=False)


def test_the_least_is_said_before_and_with_an_estimate_after_the_first_cells(
    recipe: Recipe,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("telltune.study.search._MOST", 2)
    search(recipe, ["sft"], 1200, tmp_path / "out", minutes=0, progress=True)
    before, after = [record.getMessage() for record in caplog.records if "least" in record.msg]
    assert "runs even if it exceeds the budget of 0 minutes" in before
    assert "minutes, judging by the first cells" in after
    caplog.clear()
    search(recipe, ["sft"], 1200, tmp_path / "out", minutes=600, progress=True)
    assert not [record for record in caplog.records if "least" in record.msg]
