"""`auto` settings follow the rule within its bounds, and given settings stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telltune.models import ModelShape
from telltune.recipe import Recipe, recipe_from_dict
from telltune.training.defaults import resolve

SMALL = ModelShape(
    model_type="llama",
    context_length=2048,
    layers=30,
    hidden=576,
    mlp_width=1536,
    vocabulary=49152,
    layer_weights=106_000_000,
    sizes={},
)


def recipe(**parts: Any) -> Recipe:
    return recipe_from_dict({"task": "answer_kind", **parts})


@pytest.mark.parametrize(
    ("examples", "passes", "batch_size"),
    [(10, 16, 4), (20, 16, 4), (36, 12, 8), (60, 9, 8), (200, 5, 16), (600, 3, 16), (2000, 3, 16)],
)
def test_passes_and_batch_follow_from_the_number_of_examples(
    examples: int, passes: int, batch_size: int
):
    found, _ = resolve(recipe(), examples, SMALL)
    assert (found.mixture.passes, found.training.batch_size) == (passes, batch_size)


@pytest.mark.parametrize(
    ("hidden", "rate"), [(576, 1.3e-3), (640, 1.2e-3), (2048, 4.9e-4), (4096, 2.9e-4), (32, 2e-3)]
)
def test_the_learning_rate_follows_from_the_models_width(hidden: int, rate: float):
    assert resolve(recipe(), 60, replace(SMALL, hidden=hidden))[0].training.learning_rate == rate


@pytest.mark.parametrize(
    "parts",
    [
        {"training": {"full_parameters": True}},
        {"lora": {"init": "pissa_niter_16"}},
        {"lora": {"init": "olora"}},
    ],
)
def test_where_weights_of_the_base_are_trained_the_learning_rate_is_a_tenth(parts: dict[str, Any]):
    assert resolve(recipe(**parts), 60, SMALL)[0].training.learning_rate == 1.3e-4


def test_what_a_recipe_gives_stays():
    given_ = {"learning_rate": 3e-4, "batch_size": 5}
    given_recipe = recipe(mixture={"passes": 7}, training=given_)
    same, numbers = resolve(given_recipe, 60, SMALL)
    assert same is given_recipe
    assert numbers == {}
    partly = recipe(mixture={"passes": 7})
    assert set(resolve(partly, 60, SMALL)[1]) == {
        "training.batch_size",
        "training.learning_rate",
    }


@given(examples=st.integers(1, 10**6))
def test_every_size_gets_enough_steps_and_no_needless_ones(examples: int):
    found, _ = resolve(recipe(), examples, SMALL)
    passes, batch_size = int(found.mixture.passes), int(found.training.batch_size)
    steps = examples * passes / batch_size
    assert 3 <= passes <= 16
    assert 4 <= batch_size <= 16
    assert examples < 10 or steps >= 40
    more, _ = resolve(recipe(), examples + 1, SMALL)
    assert int(more.mixture.passes) <= passes
    assert int(more.training.batch_size) >= batch_size
