"""An adapter and a small classifier choose the label together, also after loading."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import telltune
from telltune.data.examples import Example
from telltune.data.task import load_split, load_task, unlabeled_beside
from telltune.errors import ModelError, RecipeError
from telltune.fitting.adapter_folder import CLASSIFIER, load_predictor, read_tell
from telltune.fitting.protocol import Settings
from telltune.methods.registry import get_method
from telltune.models import load_base
from telltune.recipe import as_recipe

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def recipe(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe whose adapter learns almost nothing, and whose words determine the label."""
    task = toy_recipe["task"] | {"max_examples": 18, "unlabeled": "rest"}
    training = toy_recipe["training"] | {"learning_rate": 1e-9}
    product = {"method": "sft", "product_of_experts": "tfidf"}
    return toy_recipe | product | {"task": task, "training": training, "mixture": {"passes": 1}}


def test_the_answer_is_the_label_with_the_largest_product(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    telltune.fit(recipe, tmp_path / "out", progress=False)
    predictor = load_predictor(tmp_path / "out")
    items = load_split(as_recipe(recipe), "test")
    assert predictor.classifier is not None
    scores = predictor.classifier.scores(items, predictor.labels)
    said = [[type(e)(e.prompt, label) for e in items] for label in predictor.labels]
    nll = np.stack([predictor.nll(examples)[0].numpy() for examples in said], axis=1)
    wanted = [predictor.labels[i] for i in (scores - nll).argmax(axis=1)]
    assert predictor.predict(items) == wanted
    assert wanted != [predictor.labels[i] for i in (-nll).argmax(axis=1)]


def test_white_space_around_labels_makes_no_others(
    recipe: dict[str, Any], tmp_path: Path, write_jsonl: Any, toy_rows: Any
) -> None:
    rows = toy_rows(range(24))
    for row in rows[:9]:
        row["completion"] += " " if row["prompt"] < "item 4" else "\n"
    task = recipe["task"] | {"train": str(write_jsonl(tmp_path / "spaced.jsonl", rows))}
    telltune.fit(recipe | {"task": task}, tmp_path / "out", progress=False)
    record = read_tell(tmp_path / "out")
    assert record["classifier"]["answers"] == record["labels"] == ["ball", "box", "sheet"]
    assert telltune.evaluate(tmp_path / "out", progress=False).scores["accuracy"].score == 100


def test_what_was_fitted_is_loaded_again(recipe: dict[str, Any], tmp_path: Path) -> None:
    task = load_task(as_recipe(recipe))
    items = load_split(as_recipe(recipe), "test")
    settings = Settings(as_recipe(recipe), tmp_path / "out", progress=False)
    base = load_base(as_recipe(recipe).model)
    in_memory = get_method("sft").run(task, None, base, settings)
    assert in_memory.cost.unlabeled_examples == len(unlabeled_beside(task, task.train)) > 0
    assert in_memory.cost.task_examples == 18
    loaded = load_predictor(tmp_path / "out")
    assert loaded.predict(items) == in_memory.predict(items)
    record = read_tell(tmp_path / "out")
    assert record["classifier"]["answers"] == record["labels"]
    assert "a small classifier" in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "out" / CLASSIFIER).unlink()
    with pytest.raises(ModelError, match=r"classifier\.safetensors is missing"):
        load_predictor(tmp_path / "out")


def test_a_classifier_that_knows_nothing_has_no_say(recipe: dict[str, Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"prompt": f"item {i}", "completion": str(rng.choice(["ball", "box"]))} for i in range(24)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"task": {"train": str(path)}}
    telltune.fit(recipe | task, tmp_path / "out", progress=False)
    plain = {"product_of_experts": None, "evaluation": {"answers": "likelihood"}}
    telltune.fit(recipe | task | plain, tmp_path / "plain", progress=False)
    assert not (tmp_path / "out" / CLASSIFIER).exists()
    assert "answers" not in read_tell(tmp_path / "out")["classifier"]
    asked = ["item 1", "item 2"]
    answers = telltune.predict(tmp_path / "out", asked)
    assert answers == telltune.predict(tmp_path / "plain", asked)
    assert set(answers) <= {"ball", "box"}
    # In memory, too, and with settings for the answers that are given later.
    base = load_base(as_recipe(recipe).model)
    settings = Settings(as_recipe(recipe | task), progress=False)
    product = get_method("sft").run(load_task(settings.recipe), None, base, settings)
    assert product.classifier is None
    assert product.predict([Example(text, "") for text in asked]) == answers
    items = str(tmp_path / "train.jsonl")
    scored = telltune.evaluate(tmp_path / "out", items, max_items=2, progress=False)
    assert set(scored.predictions) <= {"ball", "box"}


@pytest.mark.parametrize("verb", ["plan", "fit"])
def test_answers_that_are_no_labels_are_refused_before_training(
    recipe: dict[str, Any], tmp_path: Path, verb: str
) -> None:
    path = tmp_path / "train.jsonl"
    rows = [{"prompt": f"item {i}", "completion": f"answer {i}"} for i in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed = recipe | {"task": {"train": str(path)}}
    with pytest.raises(
        RecipeError, match=r"`product_of_experts` chooses among labels, but .* remove it"
    ):
        telltune.plan(changed) if verb == "plan" else telltune.fit(changed, tmp_path / "out")


def test_a_method_of_its_own_has_it(toy_recipe: dict[str, Any], tmp_path: Path) -> None:
    done = telltune.fit(toy_recipe | {"method": "sft_product"}, tmp_path / "out", progress=False)
    assert done.record["classifier"]["notes"][0].startswith("Accuracy on held-out labeled examples")
    assert load_predictor(tmp_path / "out").classifier is not None
