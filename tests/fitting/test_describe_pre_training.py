"""A plan describes everything that happens before training."""

from __future__ import annotations

from typing import Any

import pytest

from telltune.api import plan
from telltune.fitting.describe_pre_training import describe_pre_training
from telltune.methods.registry import get_method
from telltune.recipe import recipe_from_dict


@pytest.mark.parametrize(
    ("method", "keys", "said"),
    [
        ("tell", {}, []),
        ("tell_easy_first", {}, ["scored by PVI: 10 trainings"]),
        ("tell_easy_first", {"selection": {"folds": 3}}, ["scored by PVI: 6 trainings"]),
        ("sft", {"selection": {"in_context": 4}}, ["with 4 exemplars"]),
        ("sft", {"selection": {"by": "memory", "samples": 5}}, ["answers each question 20 times"]),
        ("sft", {"confidence": "pvi"}, ["scored by PVI: 10"]),
        ("self_guide", {}, ["up to 200 task examples"]),
        ("tell_auxiliary", {}, ["auxiliary tasks"]),
        ("tell_nearest", {}, ["from 2,000 by embeddings"]),
        ("sft", {"general_choice": "nearest"}, []),
        ("sft_product", {}, ["a small classifier is chosen by cross-validation"]),
        ("sft", {"pseudo_label": "tfidf"}, ["up to 400 unlabeled inputs are labeled"]),
        ("sft", {"pseudo_label": "model"}, ["2 adapters are trained on the task"]),
    ],
)
def test_each_thing_is_named_where_it_happens(
    method: str, keys: dict[str, Any], said: list[str]
) -> None:
    recipe = recipe_from_dict({"task": "medical_specialty", "general": "embedded", **keys})
    found = describe_pre_training(get_method(method), recipe)  # type: ignore[arg-type]
    assert len(found) == len(said)
    for clause, part in zip(found, said, strict=True):
        assert part in clause


def test_a_plan_has_it(toy_recipe: dict[str, Any]) -> None:
    recipe = toy_recipe | {"selection": {"drop_hardest": 0.1}}
    assert "PVI" in plan(recipe, measure=False)["before_training"][0]
