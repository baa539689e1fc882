"""Fixtures for tests of faults: a small run, and its undisturbed result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from victim import STEPS, Left

import telltune
from forked import Forked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def short(toy_recipe: dict[str, Any], small_batches: None) -> dict[str, Any]:
    """Return a recipe of twelve steps that uses random numbers in each step."""
    toy_recipe["task"]["max_examples"] = 16
    toy_recipe["mixture"] = {"general_examples": 16, "passes": 2}
    toy_recipe["training"]["save_steps"] = 3
    toy_recipe["lora"]["dropout"] = 0.1
    return toy_recipe


@pytest.fixture
def recipe(short: dict[str, Any], tmp_path: Path) -> Path:
    """Write `short` to a file."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(short), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def _undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("undisturbed") / "out"


@pytest.fixture
def undisturbed(_undisturbed: Path, short: dict[str, Any]) -> Left:
    """Return what the undisturbed run leaves; it runs once for all tests."""
    if not _undisturbed.exists():
        telltune.fit(short, _undisturbed, progress=False)
    left = Left.of(_undisturbed)
    assert [row["step"] for row in left.rows] == list(range(1, STEPS + 1))
    return left


@pytest.fixture
def fit(recipe: Path, tmp_path: Path) -> Callable[..., Forked]:
    """Return a function that runs `tell fit` of the recipe into `out` in a separate process."""

    def start(**more: Any) -> Forked:
        return Forked("fit", recipe, "--out", tmp_path / "out", said=tmp_path / "said.txt", **more)

    return start
