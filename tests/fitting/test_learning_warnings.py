"""A run that cannot learn, or did not learn, gives a warning."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

import telltune
from telltune.fitting.learning_warnings import guessing_loss

if TYPE_CHECKING:
    from pathlib import Path


def test_guessing_costs_the_entropy_of_the_labels():
    assert guessing_loss(["a", "b"] * 10, 1.0) == pytest.approx(math.log(2))
    assert guessing_loss(["a", "b", "c", "d"] * 10, 3.0) == pytest.approx(math.log(4) / 3)
    assert guessing_loss(["a"] * 10, 2.0) == 0.0
    assert guessing_loss([f"answer {n}" for n in range(20)], 2.0) is None
    assert guessing_loss([f"<think>{n}</think>a" for n in range(20)], 9.0) is None


def test_a_plan_of_few_steps_warns_and_the_setting_it_names_helps(toy_recipe: dict[str, Any]):
    found = telltune.plan(toy_recipe, measure=False)
    assert found["optimizer_steps"] < 20
    [warning] = found["warnings"]
    passes = int(warning.partition("mixture.passes=")[2].partition("`")[0])
    toy_recipe["mixture"]["passes"] = passes
    assert telltune.plan(toy_recipe, measure=False)["warnings"] == []


def test_a_fit_that_learned_nothing_says_so(toy_recipe: dict[str, Any], tmp_path: Path):
    toy_recipe["training"]["learning_rate"] = 1e-6
    warnings = telltune.fit(toy_recipe, tmp_path / "out", progress=False).warnings
    assert any("answers are none of the 3 labels" in warning for warning in warnings)
    assert any(
        "the labels were not learned" in warning
        and "--set training.learning_rate=auto --set mixture.passes=auto" in warning
        for warning in warnings
    )


def test_a_classifier_that_knows_the_labels_is_told_from_the_adapter(
    toy_recipe: dict[str, Any], tmp_path: Path
):
    toy_recipe["training"]["learning_rate"] = 1e-6
    toy_recipe["method"] = "sft_product"
    warnings = " ".join(telltune.fit(toy_recipe, tmp_path / "out", progress=False).warnings)
    assert "the adapter did not learn the labels, so the classifier alone decides" in warnings
    assert "labels were not learned" not in warnings


def test_a_fit_that_learned_says_nothing(toy_recipe: dict[str, Any], tmp_path: Path):
    toy_recipe["mixture"] = {"general_examples": 0, "passes": 30}
    toy_recipe["training"] |= {"full_parameters": True, "learning_rate": 0.01, "batch_size": 12}
    assert telltune.fit(toy_recipe, tmp_path / "out", progress=False).warnings == ()


def test_a_single_label_that_was_learned_is_no_matter_for_a_warning(
    toy_recipe: dict[str, Any], tmp_path: Path, write_jsonl: Any
):
    rows = [{"prompt": f"item {n}", "completion": "ball"} for n in range(24)]
    toy_recipe["task"] = {"train": str(write_jsonl(tmp_path / "one.jsonl", rows))}
    toy_recipe["mixture"] = {"general_examples": 0, "passes": 4}
    assert telltune.fit(toy_recipe, tmp_path / "out", progress=False).warnings == ()


def test_a_fit_ends_well_where_answers_are_too_long_to_ask_for(
    toy_recipe: dict[str, Any], tmp_path: Path
):
    toy_recipe["evaluation"] = {"max_new_tokens": 2000}
    assert telltune.fit(toy_recipe, tmp_path / "out", progress=False).folder == tmp_path / "out"


def test_free_text_is_held_to_its_own_first_loss(
    toy_recipe: dict[str, Any], tmp_path: Path, write_jsonl: Any
):
    rows = [{"prompt": f"Say {n}.", "completion": f"{n} it is, said {n}."} for n in range(24)]
    toy_recipe["task"] = {"train": str(write_jsonl(tmp_path / "free.jsonl", rows))}
    toy_recipe["training"]["learning_rate"] = 1e-6
    warnings = telltune.fit(toy_recipe, tmp_path / "out", progress=False).warnings
    assert any("hardly anything was learned" in warning for warning in warnings)
