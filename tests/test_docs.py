"""Keys, defaults and files in the docs are those of the code."""

from __future__ import annotations

import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from telltune.data.formats import known_suffixes
from telltune.recipe import Columns, DataSpec, Recipe
from telltune.training.source_weights import LearnedWeights

ROOT = Path(__file__).parents[1]
PAGES = {
    str(page.relative_to(ROOT)): page
    for page in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    )
}
DOCS = {name: page.read_text(encoding="utf-8") for name, page in PAGES.items()}


def part_of(annotation: Any) -> type[BaseModel] | None:
    """Return the part of a recipe in a field, also within `X | None` and `Annotated`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return next(filter(None, map(part_of, typing.get_args(annotation))), None)
    return None


SECTIONS = {name: part_of(field.annotation) for name, field in Recipe.model_fields.items()}
PARTS = {name: part for name, part in SECTIONS.items() if part is not None}
PARTS |= {"columns": Columns, "data": DataSpec}


@pytest.mark.parametrize("page", DOCS)
def test_recipe_keys_in_the_docs_exist(page: str) -> None:
    named = re.findall(r"`([a-z_]+)\.([a-z_]+)(?:[=:][^`]*)?`", DOCS[page])
    named += re.findall(r"--set ([a-z_]+)\.([a-z_]+)=", DOCS[page])
    suffixes = {"json", "jsonl", "yaml", "py", "html", "md"}
    unknown = [
        f"{section}.{key}"
        for section, key in named
        if section in PARTS and key not in PARTS[section].model_fields and key not in suffixes
    ]
    assert unknown == []


def test_each_feature_beside_other_tools_has_a_test() -> None:
    table = [line.split("|") for line in DOCS["docs/research/peers.md"].splitlines()]
    features = {row[1].strip(): row[2:4] for row in table if len(row) == 6}
    untested = {name for name, (_, test) in features.items() if not re.search(r"`tests/", test)}
    assert untested == {
        "feature",
        "---",
        *(name for name, (ours, _) in features.items() if ours.strip() == "none"),
    }
    named = [re.search(r"`(tests/[^`]+)`", test) for _, test in features.values()]
    for test in filter(None, named):
        assert "\ndef test_" in (ROOT / test[1]).read_text(encoding="utf-8")


def rows() -> list[tuple[str, str]]:
    """Return keys and defaults in the tables of the recipe reference, for recipe sections."""
    reference = DOCS["docs/reference/recipe.md"]
    found = re.findall(r"^\| `([a-z_.]+)` \| (.+?) \|", reference, re.MULTILINE)
    return [(key, default) for key, default in found if key.split(".")[0] in Recipe.model_fields]


@pytest.mark.parametrize(("key", "said"), rows(), ids=[key for key, _ in rows()])
def test_defaults_in_the_reference_are_those_of_the_schema(key: str, said: str) -> None:
    section, _, name = key.partition(".")
    fields = PARTS[section].model_fields if name else Recipe.model_fields
    field = fields[name or section]
    if said == "required":
        assert field.is_required()
    elif said == "-":
        assert not field.is_required()
        assert field.default is None or field.default in ("", [])
    elif said != "see below":
        default = field.get_default(call_default_factory=True)
        assert default is not PydanticUndefined
        text = said.strip("`")
        # YAML reads 2e-4 as a string.
        told = float(text) if isinstance(default, float) else yaml.safe_load(text or "''")
        assert told == (list(default) if isinstance(default, tuple) else default)


def test_the_reference_lists_every_key_also_of_sections_that_a_recipe_need_not_have() -> None:
    reference = DOCS["docs/reference/recipe.md"]
    keys = [
        key if section == "data" else f"{section}.{key}"
        for section, part in PARTS.items()
        for key in part.model_fields
    ]
    missing = [key for key in (*Recipe.model_fields, *keys) if f"| `{key}` |" not in reference]
    assert missing == []


def test_the_data_guide_lists_every_file_format() -> None:
    listed = re.findall(r"^\| (`\..+?) \|", DOCS["docs/guides/data.md"], re.MULTILINE)
    assert set(re.findall(r"`(\.\w+)`", " ".join(listed))) == set(known_suffixes())


@pytest.mark.parametrize("page", DOCS)
def test_files_in_the_docs_exist(page: str) -> None:
    text = DOCS[page]
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    missing = sorted(set(re.findall(r"`(test_\w+\.py)`", text)) - tests)
    named = re.findall(
        r"(?<![\w/.])((?:benchmarks|configurations|recipes|docs|src|tests)/[\w/.-]+\.\w+)", text
    )
    missing += sorted(name for name in set(named) if not (ROOT / name).exists())
    for link in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text):
        if not PAGES[page].parent.joinpath(link).exists():
            missing.append(link)
    assert missing == []


def test_the_rate_of_learned_weights_in_the_docs_is_that_of_the_code() -> None:
    guide = DOCS["docs/guides/task-data.md"]
    [said] = re.findall(r"learned at a rate of their own \(([\d.]+), by Adam\)", guide)
    assert float(said) == LearnedWeights.learning_rate
