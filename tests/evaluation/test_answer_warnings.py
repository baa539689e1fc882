"""A score that means little comes with a warning that has the count and the key to set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import telltune
from telltune.data.examples import Example
from telltune.evaluation.answer_warnings import data_warnings, scoring_warnings
from telltune.evaluation.headline import TaskAnswers, choose_metrics, label_set
from telltune.fitting.predictor import Cost, Predictor
from telltune.recipe import EvaluationSpec

if TYPE_CHECKING:
    from collections.abc import Callable

BUDGET = Path(__file__).parents[1] / "cases" / "budget"
TRAINED = Cost(task_examples=6, optimizer_steps=3)


def answered(cost: Cost = TRAINED, cut: int = 0, **evaluation: Any) -> Predictor:
    """Return a predictor that has answered."""
    nothing: Any = None
    spec = EvaluationSpec(**evaluation)
    predictor = Predictor(nothing, nothing, None, 8, spec, ("no", "yes"), cost=cost)
    predictor.cut = cut
    return predictor


def told(
    predictions: list[str],
    references: list[str],
    *,
    said: Any = None,
    train: list[str] | None = None,
    lengths: list[int] | None = None,
) -> tuple[str, ...]:
    answers = None
    metrics: tuple[str, ...] = choose_metrics(references)
    if train is not None:
        everywhere = (*train, *references)
        test = tuple(Example("q", text) for text in references)
        metrics = choose_metrics(everywhere)
        answers = TaskAnswers(metrics, label_set(everywhere), tuple(train), everywhere, test)
    sizes = np.array(lengths or [2] * len(references))
    return scoring_warnings(said or answered(), references, sizes, predictions, metrics, answers)


GOLD = ["yes", "no", "yes", "no"]


def test_right_answers_are_told_nothing() -> None:
    assert told(GOLD, GOLD, train=["yes", "no"] * 3) == ()


def test_empty_answers_are_counted() -> None:
    [warning] = told(["", " ", "yes", "no"], GOLD)
    assert warning.startswith("2 of 4 answers are empty; it has not learned the task")
    assert "--set mixture.passes=" in warning
    [untrained] = told(["", "", "yes", "no"], GOLD, said=answered(Cost()))
    assert "--set" not in untrained
    assert told(["", "yes"], ["", "yes"]) == ()


def test_one_answer_to_all_items_is_told_where_the_references_differ() -> None:
    [warning] = told(["yes"] * 4, GOLD)
    assert warning.startswith("all 4 answers are `yes`, but there are 2 different references")
    assert told(["yes"] * 4, ["yes"] * 4) == ()
    [empty] = told([""] * 4, GOLD)
    assert "are empty" in empty


def test_answers_outside_the_labels_are_named_by_how_often_they_come() -> None:
    predictions = ["maybe", "maybe", "so\nso", " YES "]
    [warning] = told(predictions, GOLD, train=["yes", "no"] * 3)
    assert warning.startswith(
        "3 of 4 answers are none of the 2 labels, most often `maybe` (2), `so so` (1);"
    )
    assert "--set evaluation.answers=likelihood" in warning
    assert told(["a name", "b", "c"], ["d name", "e", "f"], train=["g", "h"]) == ()


def test_labels_that_training_did_not_show_are_named() -> None:
    said = answered()
    said.labels = ("yes",)
    [warning] = told(GOLD, GOLD, train=["yes"] * 6, said=said)
    assert warning == (
        "2 of 4 test items have labels that no training example has: `no` (2); add examples of "
        "them to `task.train`, or let a classifier learn them from `task.labels`."
    )
    # The base was trained on none.
    assert told(GOLD, GOLD, train=["yes"] * 6, said=answered(Cost())) == ()


def test_labels_of_dev_data_that_training_did_not_show_are_named() -> None:
    answers = TaskAnswers(("accuracy",), ("a", "b"), ("a", "a"), ("a", "a", "b"), dev=("a", "b"))
    unseen, same = data_warnings(answers, 2)
    assert unseen.startswith("1 of 2 dev items have labels that no training example has: `b` (1);")
    assert same.startswith(
        "all 2 training answers are `a`, so they teach nothing about the prompts"
    )


def test_labels_that_differ_in_spelling_only_are_named() -> None:
    said = answered()
    said.labels = ()
    [warning] = told(["1.0", "0"] * 3, ["1.0", "0"] * 3, train=["1", "0"] * 6, said=said)
    assert "1 of 2 labels are written in more than one way: `1` (6) and `1.0` (3);" in warning
    gold = ["Billing", "sales"]
    [warning] = told(gold, gold, train=["billing ", "sales"] * 3, said=said)
    assert "`billing ` (3) and `Billing` (1)" in warning


def test_references_longer_than_an_answer_may_be_name_the_budget() -> None:
    [warning] = told(["x"], ["x"], lengths=[26])
    assert warning.startswith("1 of 1 references are longer than the answer limit (8 tokens; ")
    assert "--set evaluation.max_new_tokens=32" in warning
    few = [26] + [2] * 39
    assert told(GOLD * 10, GOLD * 10, lengths=few) == ()
    assert told(["yes"], ["yes"], lengths=[26], said=answered(answers="likelihood")) == ()


def test_answers_that_were_cut_are_counted() -> None:
    [warning] = told(GOLD, GOLD, said=answered(cut=3))
    assert warning.startswith("3 of 4 answers did not end within 8 tokens and were cut there")
    assert "--set evaluation.max_new_tokens=16" in warning


def test_references_that_are_no_json_are_counted() -> None:
    references = ['{"a": 1}', '{"a": 2}', "none"]
    [warning] = told(references, references)
    assert warning.startswith("1 of 3 references are not a JSON object or array, e.g. `none`")


def planned(recipe: dict[str, Any]) -> list[str]:
    """Return a plan's warnings, except the one about too few steps."""
    found = telltune.plan(recipe, measure=False)["warnings"]
    return [warning for warning in found if "optimizer steps" not in warning]


@pytest.fixture
def budget(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    task = {"train": str(BUDGET / "short.jsonl"), "test": str(BUDGET / "long.jsonl")}
    return toy_recipe | {"task": task, "method": "sft", "general": None, "anchor": None}


def test_plan_and_evaluate_name_a_budget_that_references_exceed(
    budget: dict[str, Any], tmp_path: Path
) -> None:
    [warning] = [
        sentence for sentence in planned(budget) if "longer than the answer limit" in sentence
    ]
    assert warning.startswith("6 of 6 references")
    setting = warning.partition("--set evaluation.max_new_tokens=")[2].partition("`")[0]

    telltune.fit(budget, tmp_path / "run", progress=False)
    result = telltune.evaluate(tmp_path / "run", progress=False)
    assert warning in result.warnings
    assert result.headline[0] == "chrf"
    wide = budget | {"evaluation": {"max_new_tokens": int(setting)}}
    assert not [sentence for sentence in planned(wide) if "answer limit" in sentence]
    # The adapter's folder says nine tokens, but the scoring recipe overrides it.
    result = telltune.evaluate(tmp_path / "run", wide, progress=False)
    assert not [sentence for sentence in result.warnings if "longer than an answer" in sentence]


def test_plan_names_unseen_and_misspelt_labels(
    toy_recipe: dict[str, Any], tmp_path: Path, write_jsonl: Callable[..., Path]
) -> None:
    rows = [{"prompt": f"{i}?", "completion": c} for i, c in enumerate(["Ball", "cube", "cube"])]
    test = write_jsonl(tmp_path / "new.jsonl", rows)
    changed = toy_recipe | {"task": toy_recipe["task"] | {"test": str(test)}}
    spelling, unseen = planned(changed)
    assert "`ball` (12) and `Ball` (1)" in spelling
    assert "2 of 3 test items have labels that no training example has: `cube` (2)" in unseen


def test_listed_labels_are_news_to_an_adapter_but_not_to_a_classifier(
    toy_recipe: dict[str, Any], tmp_path: Path, write_jsonl: Callable[..., Path]
) -> None:
    test = write_jsonl(tmp_path / "new.jsonl", [{"prompt": "?", "completion": "ball"}] * 2)
    train = write_jsonl(tmp_path / "few.jsonl", [{"prompt": "a", "completion": "cube"}] * 4)
    task = {"train": str(train), "test": str(test), "labels": ["ball", "cube"]}
    adapter, *_ = planned(toy_recipe | {"task": task})
    assert "2 of 2 test items have labels that no training example has: `ball` (2)" in adapter
    for keys in ({"product_of_experts": "auto"}, {"method": "tfidf_linear"}):
        assert not [one for one in planned(toy_recipe | {"task": task} | keys) if "`ball`" in one]


def test_plan_goes_on_without_test_data_that_cannot_be_read(
    toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    assert planned(toy_recipe) == []
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "q", "completion": "ball"}\n{"prompt": \n')
    changed = toy_recipe | {"task": toy_recipe["task"] | {"test": str(broken)}}
    [warning] = planned(changed)
    assert warning.startswith("the test data cannot be read")
    assert "broken.jsonl:2" in warning


def test_an_adapter_is_scored_where_its_training_data_are_not(
    toy_recipe: dict[str, Any], toy_task: dict[str, Path], tmp_path: Path
) -> None:
    telltune.fit(toy_recipe | {"method": "sft"}, tmp_path / "run", progress=False)
    toy_task["train"].unlink()
    result = telltune.evaluate(tmp_path / "run", progress=False)
    assert result.headline[0] == "accuracy"
    assert result.warnings[0].startswith("the training data cannot be read, so the metrics")
    named = toy_recipe | {"method": "sft", "evaluation": {"metrics": ["bleu"]}}
    assert telltune.evaluate(tmp_path / "run", named, progress=False).headline[0] == "bleu"
