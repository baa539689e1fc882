"""`tell env` and `tell config-schema`."""

from __future__ import annotations

import json
import platform
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml
from typer.testing import CliRunner

from telltune.cli import app
from telltune.environment import EXTRAS
from telltune.recipe import Recipe
from telltune.recipe.json_schema import json_schema
from telltune.version import VERSION

ROOT = Path(__file__).parents[2]


def test_env_lists_what_a_bug_report_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    ran = CliRunner().invoke(app, ["env", "--json"])
    found = json.loads(ran.stdout)
    assert (found["telltune"], found["python"]) == (VERSION, platform.python_version())
    assert found["packages"]["torch"] == torch.__version__
    assert found["extras"]["quantized"].keys() == {"bitsandbytes"}
    assert 0 < found["cpu"]["usable"] <= found["cpu"]["cores"]
    assert 0 < found["memory"]["available"] < found["memory"]["total"]
    assert found["settings"]["HF_HUB_OFFLINE"] == "1"
    assert len(found["gpus"]) == torch.cuda.device_count()
    told = CliRunner().invoke(app, ["env"]).stdout
    assert told.startswith(f"telltune {VERSION}, Python {platform.python_version()}, ")
    assert f"torch {torch.__version__}" in told
    assert "hf_" not in ran.stdout + told


def test_extras_are_those_of_the_package() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        optional = tomllib.load(file)["project"]["optional-dependencies"]
    for extra in optional.keys() - {"docs", "dev"}:
        assert EXTRAS[extra] == tuple(each.partition(">=")[0] for each in optional[extra])


@cache
def schema_of(*words: str) -> Any:
    """Return a validator of the schema that `tell config-schema` prints."""
    ran = CliRunner().invoke(app, ["config-schema", *words])
    assert ran.exit_code == 0, ran.output
    schema = json.loads(ran.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


NO_RECIPE = ("cascade", "continual")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipes_and_studies_fit_the_schema(path: Path) -> None:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    kind = "study" if "methods" in values else "recipe"
    assert schema_of(kind).is_valid(values) is (path.stem not in NO_RECIPE)


@pytest.mark.parametrize(
    "values",
    [
        {"task": {"train": ["a.jsonl", {"path": "b.csv"}]}, "general": ["a.jsonl", "b.jsonl"]},
        {
            "task": {"train": {"path": "a.csv"}},
            "general": {"path": "b.csv"},
            "model": {"name": "m"},
        },
        {
            "task": "medical_specialty",
            "pseudo_label": "encoder",
            "training": {"report_to": "wandb"},
        },
        {"task": {"train": "a"}, "mixture": {"passes": "auto"}, "general": None},
    ],
)
def test_shorthands_fit_the_schema(values: dict[str, Any]) -> None:
    Recipe.model_validate(values)
    assert list(schema_of().iter_errors(values)) == []


@pytest.mark.parametrize(
    "values",
    [
        {"task": {"train": "a"}, "mixture": {"passs": 5}},
        {"task": {"train": "a"}, "mixture": {"passes": "many"}},
        {"general": "embedded"},
        {"task": {"train": "a"}, "training": {"schedule": "steps"}},
    ],
)
def test_mistakes_do_not_fit_the_schema(values: dict[str, Any]) -> None:
    assert not schema_of().is_valid(values)


def test_every_key_is_described(tmp_path: Path) -> None:
    out = tmp_path / "recipe.schema.json"
    CliRunner().invoke(app, ["config-schema", "--out", str(out)])
    schema = json.loads(out.read_text(encoding="utf-8"))
    assert schema == json_schema(Recipe)
    for name, part in schema["$defs"].items():
        for key, described in part.get("properties", {}).items():
            assert described.get("description"), f"{name}.{key}"
