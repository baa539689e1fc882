"""A recipe is told apart from data, and mistakes in it are reported at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from telltune.errors import DataError, RecipeError
from telltune.proposal.recipe_of import is_recipe, recipe_of
from telltune.recipe import Recipe


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("recipe.yaml", True),
        (Path("recipe.YML"), True),
        ({"task": "answer_kind"}, True),
        ({"tsk": "answer_kind"}, True),
        (Recipe.model_validate({"task": "answer_kind"}), True),
        ("rows.csv", False),
        (Path("folder"), False),
        (["a.csv", "b.csv"], False),
        ([{"prompt": "a", "completion": "b"}], False),
        ({"train": "a.csv", "validation": "b.csv"}, False),
        ({"text": ["a", "b"], "label": ["x", "y"]}, False),
        ({"train": [{"text": "a", "label": "b"}], "unsupervised": [{"text": "a"}]}, False),
        ({}, True),
    ],
)
def test_recipes_and_data_are_told_apart(given: Any, expected: bool) -> None:
    assert is_recipe(given) is expected


def test_dictionaries_of_columns_and_unknown_columns_are_refused_in_one_sentence() -> None:
    with pytest.raises(
        DataError, match=r"data of type dict cannot .* by split \(train, dev, test\)"
    ):
        recipe_of({"text": ["a"], "label": ["b"]})  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"`columns`: `completion` is missing; `complet` is not"):
        recipe_of([{"a": "b"}], columns={"prompt": "a", "complet": "b"})


def test_mistakes_in_a_recipe_are_reported_before_pytorch_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("tsk: answer_kind\n")
    code = f"""
import sys
from telltune.errors import RecipeError
from telltune.proposal.recipe_of import recipe_of
try:
    recipe_of({str(path)!r})
except RecipeError as error:
    print(error)
assert not {{"torch", "numpy", "pyarrow"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert "tsk" in done.stdout


def test_the_keys_of_a_recipe_override_guesses() -> None:
    rows = [{"text": f"parcel {n}", "team": "ab"[n % 2]} for n in range(8)]
    recipe, told = recipe_of(rows, overrides=["anchor=Name the team.", "mixture.passes=2"])
    assert told.startswith("list is no recipe, so the settings are guessed: 8 examples, 2 labels")
    assert recipe.anchor is not None
    assert recipe.anchor.prompt == "Name the team."
    assert recipe.mixture.passes == 2
