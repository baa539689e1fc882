"""A recommendation uses allowed data only, with its expected score and gain from more data."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import telltune
from telltune.cli import app
from telltune.cli.console import print_recommendation
from telltune.data.task import load_task
from telltune.errors import RecipeError, StorageError
from telltune.evaluation.metrics import mean_of
from telltune.fitting.predictor import BaselinePredictor, Predictor
from telltune.recipe import as_recipe, load_recipe
from telltune.study.recommend import (
    RECOMMENDED,
    Estimate,
    Recommendation,
    _advice,
    _expected,
    _methods,
    choose,
    gain_of_more,
    optimism,
    recommend,
)
from telltune.study.search import Search
from telltune.study.statistics.resampling import resample_runs

pytestmark = pytest.mark.usefixtures("few_asked")


def runs(score: float, items: int = 200) -> list[Any]:
    """Return one run with a score in percent."""
    right = round(items * score / 100)
    return [mean_of(np.repeat([100.0, 0.0], [right, items - right]))]


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.fixture
def quick(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    return toy_recipe | {"mixture": {"leverage_ratio": 1.0, "passes": 1}}


def test_a_recommended_recipe_can_be_run_as_it_is_and_no_test_item_had_a_say(
    quick: dict[str, Any], tmp_path: Path
) -> None:
    Path(quick["task"]["test"]).unlink()
    found = recommend(quick, tmp_path / "out", minutes=0, progress=False)
    recipe = load_recipe(tmp_path / "out" / RECOMMENDED)
    assert recipe.method == found.method
    assert recipe.task.max_tokens is None
    assert Path(recipe.task.train[0].path) == Path(quick["task"]["train"])
    assert found.tried == 3
    assert found.items == 12
    _, advice = found.advice
    assert advice.startswith("The recipe has no unlabeled inputs; if you have some, add them as")
    # The other finalist, few-shot, base and two fast baselines, without the recommended one.
    assert len(found.rivals) == 5
    assert all("general_nll_after" in told for told in found.beside.values())
    saved = json.loads((tmp_path / "out" / "recommendation.json").read_text())
    assert saved["name"] == found.name
    assert saved["expected"]["low"] <= saved["expected"]["value"] <= saved["expected"]["high"]


def test_without_dev_items_some_are_lent_and_answers_that_are_no_labels_are_told_of(
    quick: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind in (Predictor, BaselinePredictor):
        monkeypatch.setattr(kind, "predict", lambda _, examples, **__: ["no"] * len(examples))
    monkeypatch.setattr("telltune.study.recommend._DEV_ITEMS", 10)
    del quick["task"]["dev"]
    quick |= {"general": None, "anchor": None}
    found = recommend(quick, tmp_path / "out", minutes=0, progress=False)
    assert found.items == 10  # two fifths of 24, one in each fold
    assert found.recipe.task.dev_share is None
    [strange] = [told for told in found.warnings if "none of the 3 labels" in told]
    assert re.match(r"(\d+) of \1 answers are none", strange)
    saved = json.loads((tmp_path / "out" / "recommendation.json").read_text())
    assert saved["warnings"] == list(found.warnings)
    print_recommendation(found)
    assert f"Warning: {strange}\n" in capsys.readouterr().err


def test_labels_that_only_a_fold_lacks_are_not_warned_of(
    quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telltune.study.recommend._DEV_ITEMS", 10)
    train, test = (Path(quick["task"][split]) for split in ("train", "test"))
    rare = '{"prompt": "item 99 is flat", "completion": "disc"}\n'
    for path in (train, test):
        path.write_text(path.read_text() + rare)
    del quick["task"]["dev"]
    quick |= {"general": None, "anchor": None}
    recommend(quick, tmp_path / "out", minutes=0, progress=False)
    told = [warning for row in results(tmp_path / "out") for warning in row["warnings"]]
    assert not [warning for warning in told if "no training example has" in warning]


def test_a_recipe_that_is_not_of_a_search_is_not_written_over(
    quick: dict[str, Any], tmp_path: Path
) -> None:
    mine = tmp_path / "mine" / "recipe.yaml"
    mine.parent.mkdir()
    mine.write_text("# mine\n")
    with pytest.raises(StorageError, match="mine contains files that telltune did not write"):
        recommend(quick, mine.parent, minutes=0, progress=False)
    assert [path.read_text() for path in mine.parent.iterdir()] == ["# mine\n"]


def test_a_metric_of_which_less_is_better_is_refused(quick: dict[str, Any], tmp_path: Path) -> None:
    quick["evaluation"] = {"metrics": ["perplexity"]}
    with pytest.raises(RecipeError, match="higher is better"):
        recommend(quick, tmp_path / "out", minutes=0, progress=False)


def test_the_given_recipe_is_not_replaced(quick: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / RECOMMENDED
    path.write_text(json.dumps(quick))
    with pytest.raises(StorageError, match="would be replaced; choose another output"):
        recommend(path, tmp_path, progress=False)
    ran = CliRunner().invoke(app, ["recommend", str(path), "--out", str(tmp_path)])
    assert "would be replaced; choose another output" in str(ran.exception)
    assert json.loads(path.read_text()) == quick


def test_the_chosen_of_equals_is_expected_to_score_less_than_it_did() -> None:
    rng = np.random.default_rng(0)
    naive, corrected = [], []
    for study in range(60):
        # Eight settings that are all right on 60% of all possible items.
        tried = [[mean_of(100.0 * (rng.random(100) < 0.6))] for _ in range(8)]
        scores = np.array([group[0].score for group in tried])
        naive.append(scores.max() - 60)
        drawn = resample_runs(tried, 400, seed=study)
        corrected.append(scores.max() - optimism(scores, drawn) - 60)
    assert np.mean(naive) > 4
    assert abs(np.mean(corrected)) < 0.6 * np.mean(naive)
    assert np.mean(corrected) < np.mean(naive) - 2


def test_one_candidate_alone_is_not_flattered() -> None:
    tried = [runs(60.0)]
    assert optimism(np.array([60.0]), resample_runs(tried, 2000)) < 0.3


@pytest.mark.parametrize("rights", [[99, 100], [0, 1], [50, 100]])
def test_what_is_expected_lies_in_the_range_of_the_score(rights: list[int]) -> None:
    tried = [[runs(right, 100)[0] for right in rights], runs(rights[0], 100)]
    scores = np.array([np.mean([run.score for run in group]) for group in tried])
    drawn = resample_runs(tried, 2000)
    expected = _expected(scores[0], drawn[:, 0], optimism(scores, drawn), percent=True)
    assert 0 <= expected.low <= expected.value <= expected.high <= 100
    assert expected.value <= scores[0]
    gain = gain_of_more({25.0: tried[1], 100.0: tried[0]}, 1000, 1e6)
    assert 0 <= gain.low <= gain.value <= gain.high <= 100


def test_of_finalists_that_are_not_told_apart_the_one_that_forgets_least_is_chosen() -> None:
    names = ["sft", "tell", "few_shot"]
    losses = {"sft": 4.0, "tell": 1.4}

    def drawn(*scores: float) -> list[Any]:
        """Return one run per score, each with its own right items."""
        rng = np.random.default_rng(0)
        return [[mean_of(rng.permutation(runs(score)[0].per_item))] for score in scores]

    near, far, shown = drawn(60, 58, 50), drawn(60, 30, 50), drawn(60, 58, 90)

    def chosen(tried: list[Any], losses: dict[str, float], *quick: str) -> str:
        scores = np.array([group[0].score for group in tried])
        return names[choose(names, scores, resample_runs(tried, 2000), losses, quick)]

    assert chosen(near, losses) == "tell"
    assert chosen(far, losses) == "sft"
    assert chosen(near, {}) == "sft"  # forgetting is unknown
    assert chosen(shown, losses) == "few_shot"


def test_a_baseline_of_seconds_is_chosen_where_nothing_scores_higher() -> None:
    names, losses = ["tell", "knn", "tfidf_linear"], {"tell": 1.4}
    quick = names[1:]

    def chosen(*scores: float) -> str:
        rng = np.random.default_rng(0)
        tried = [[mean_of(rng.permutation(runs(score)[0].per_item))] for score in scores]
        seen = np.array(scores)
        return names[choose(names, seen, resample_runs(tried, 2000), losses, quick)]

    assert chosen(60, 40, 60) == "tfidf_linear"
    assert chosen(60, 40, 58) == "tell"
    assert chosen(60, 40, 70) == "tfidf_linear"


def test_held_out_labels_choose_the_baseline_unless_dev_items_prove_another() -> None:
    names, losses = ["sft", "tfidf_em", "chosen_em"], {"sft": 4.0}

    def chosen(*scores: float) -> str:
        rng = np.random.default_rng(0)
        tried = [[mean_of(rng.permutation(runs(score)[0].per_item))] for score in scores]
        drawn = resample_runs(tried, 2000)
        return names[choose(names, np.array(scores), drawn, losses, names[1:])]

    assert chosen(40, 60, 58) == "chosen_em"
    assert chosen(40, 60, 30) == "tfidf_em"
    assert chosen(62, 60, 58) == "sft"


def test_baselines_and_pseudo_labels_are_tried_where_they_suit(
    quick: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick["task"] |= {"max_examples": 20, "unlabeled": "rest"}
    whole = as_recipe(quick)
    levers = ["tell_pseudo_label_product", "tell_product", "tell_pseudo_label"]
    assert _methods(whole, load_task(whole), labels=True) == [*levers, "sft_anchor", "sft"]
    quick |= {"general": None, "anchor": None}
    found = recommend(quick, tmp_path / "out", minutes=0, progress=False)
    tried = {row["name"].split(",")[0] for row in results(tmp_path / "out")}
    assert tried >= {"tfidf_linear", "tfidf_em", "encoder_centroid", "combined_em", "chosen_em"}
    assert tried >= {"sft_pseudo_label_product", "sft_product", "sft_pseudo_label", "sft"}
    # The last word determines the shape, which the tiny model does not learn in one pass.
    assert found.method == "chosen_em"
    assert found.expected.value > 60
    unlabeled = len(load_task(as_recipe(quick)).unlabeled)
    names, told, picking = found.advice
    assert "`task.labels`" in names
    assert told.startswith(f"With pseudo-labels of {unlabeled} unlabeled inputs, the best setting")
    assert picking.startswith("Let `tell pick`")
    print_recommendation(found)
    printed = capsys.readouterr().out
    assert "not needed: no trained method" in printed
    assert told in printed
    recipe = load_recipe(tmp_path / "out" / RECOMMENDED)
    fitted = telltune.fit(recipe, tmp_path / "run", progress=False)
    assert fitted.record["method"] == found.method


def test_picking_and_words_about_labels_are_advised_where_labels_are_few(
    toy_recipe: dict[str, Any],
) -> None:
    toy_recipe["task"] |= {"max_examples": 20, "unlabeled": "rest"}
    recipe = as_recipe(toy_recipe)
    task, nothing = load_task(recipe), Search([], {}, [], [])

    def advice(method: str, examples: int) -> tuple[str, ...]:
        one = Estimate(60.0, 50.0, 70.0)
        best = Recommendation(method, method, recipe, "accuracy", 12, one, {}, {}, None, 3, 1.0, ())
        return _advice(nothing, best, task, examples)

    names, picking = advice("encoder_em", 20)
    assert picking.startswith("Let `tell pick` choose what to label next")
    assert names.startswith("The recipe does not list the labels")
    assert advice("chosen_em", 20) == (names, picking)
    assert advice("tfidf_em", 20) == advice("tell", 20) == (names,)
    assert advice("encoder_em", 500) == ()
    task = replace(task, labels={"ball": "round", "box": "square", "sheet": "flat"})
    assert advice("encoder_em", 20) == (picking,)
    task = replace(task, labels={name: name for name in task.labels})
    words, _ = advice("encoder_em", 20)
    assert words.startswith("`task.labels` lists names only")
    assert advice("encoder_em", 500) == ()


def test_scores_on_a_line_over_log_examples_go_on_along_it() -> None:
    curve = {25.0: runs(40.0), 50.0: runs(50.0), 100.0: runs(60.0)}
    found = gain_of_more(curve, 100, 100)
    assert found.value == pytest.approx(10.0)
    assert found.low < 10 < found.high
    assert gain_of_more(curve, 100, 300).value == pytest.approx(20.0)


def test_more_data_is_taken_to_do_no_harm_and_to_end_at_all_right() -> None:
    falling = {25.0: runs(60.0), 100.0: runs(40.0)}
    assert gain_of_more(falling, 100, 100).value == 0
    steep = {25.0: runs(50.0), 100.0: runs(96.0)}
    assert gain_of_more(steep, 100, 1000).value == pytest.approx(4.0, abs=0.01)
