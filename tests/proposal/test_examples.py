"""Recipes that telltune ships can be copied, and run from the copy."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from telltune.cli import app
from telltune.data.files import files_of
from telltune.data.task import named_data
from telltune.errors import RecipeError, StorageError
from telltune.proposal.examples import copy_example, examples
from telltune.recipe import load_recipe
from telltune.study.spec import load_study

ROOT = Path(__file__).parents[2]
NAMES = list(examples())


@pytest.mark.parametrize("name", NAMES)
def test_a_copied_example_is_complete(name: str, tmp_path: Path) -> None:
    recipe, *others = copy_example(name, tmp_path)
    assert recipe == tmp_path / f"{name}.yaml"
    assert all(file.is_relative_to(tmp_path) and file.is_file() for file in others)
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    if "methods" in values:
        load_study(recipe)
    elif "task" in values:
        for spec, split in named_data(load_recipe(recipe)):
            assert all(file.is_relative_to(tmp_path) for file in files_of(spec, split) or ())


def test_examples_are_described_and_need_no_other_data() -> None:
    assert {"tickets", "demo", "study"} <= set(NAMES)
    assert "tell-en-is" not in NAMES
    assert examples()["tickets"].startswith("The tutorial's task: support tickets")
    assert all(re.fullmatch(r".{10,200}[^?.][.?]", told) for told in examples().values())


def test_an_example_replaces_nothing(tmp_path: Path) -> None:
    copy_example("tickets", tmp_path)
    with pytest.raises(StorageError, match="would be replaced"):
        copy_example("tickets", tmp_path)
    with pytest.raises(RecipeError, match="no example `nope`; choose one of cascade, "):
        copy_example("nope", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_command_line_lists_and_copies_examples(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["init", "--example", "list"]).stdout
    assert [line.partition(": ")[0] for line in listed.splitlines()] == NAMES
    ran = CliRunner().invoke(app, ["init", "--example", "tickets", "--out", str(tmp_path)])
    assert f"tell plan {tmp_path / 'tickets.yaml'}" in ran.stdout
    for words in ([], ["data.csv", "--example", "tickets"]):
        refused = CliRunner().invoke(app, ["init", *words])
        assert "give either data or --example" in str(refused.exception)
    refused = CliRunner().invoke(app, ["init", "--example", "tickets", "--model", "other"])
    assert "are for data; edit the copied recipe" in str(refused.exception)


def test_the_wheel_has_the_recipes() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        build = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["force-include"] == {"recipes": "telltune/recipes"}
