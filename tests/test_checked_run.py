"""One message names everything that a recipe refers to and that does not exist."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from telltune.checked_run import check_recipe
from telltune.errors import DataError, RecipeError, TellError
from telltune.recipe import recipe_from_dict

if TYPE_CHECKING:
    from pathlib import Path


def check(values: dict[str, Any]) -> str:
    """Return the message about a recipe, empty if there is no mistake."""
    try:
        check_recipe(recipe_from_dict(values))
    except TellError as error:
        return str(error)
    return ""


def test_a_recipe_whose_parts_are_all_there_is_not_refused(toy_recipe: dict[str, Any]) -> None:
    assert check(toy_recipe) == ""
    assert check({"task": "answer_kind", "general": "embedded"}) == ""


def test_one_mistake_is_told_as_it_always_was(toy_recipe: dict[str, Any], tmp_path: Path) -> None:
    toy_recipe["task"]["test"] = str(tmp_path / "tset.jsonl")
    with pytest.raises(DataError, match=r"no file or folder .*tset\.jsonl \(did you mean .*test"):
        check_recipe(recipe_from_dict(toy_recipe))


def test_all_mistakes_stand_in_one_message(toy_recipe: dict[str, Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jsonl")
    (tmp_path / "table.xlsx").touch()
    message = check(
        toy_recipe
        | {
            "model": str(tmp_path / "no-model"),
            "task": {
                "train": [str(tmp_path / "trian.jsonl"), str(tmp_path / "fifo.jsonl")],
                "test": str(tmp_path / "table.xlsx"),
            },
            "general": None,
            "anchor": None,
            "evaluation": {"metrics": ["acuracy", "accuracy", "rouge_k"]},
        }
    )
    said = [
        "method `tell` needs an anchor",
        "did you mean 'accuracy'?",
        "did you mean 'rouge_l'?",
        f"no file or folder {tmp_path / 'trian.jsonl'}",
        f"{tmp_path / 'fifo.jsonl'} is not a regular file",
        f"{tmp_path / 'table.xlsx'} has an unsupported format",
        f"model `{tmp_path / 'no-model'}`: no such folder",
    ]
    assert message.startswith(f"{len(said)} mistakes in the recipe: (1) ")
    assert [part for part in said if part not in message] == []
    assert "\n" not in message


def test_unknown_method_embedded_task_and_model_file_are_told_together() -> None:
    message = check({"task": "anser_kind", "model": "none.gguf", "method": "sft_ankor"})
    assert "3 mistakes" in message
    assert "no method `sft_ankor`; did you mean `sft_anchor`?" in message
    assert "did you mean 'answer_kind'?" in message
    assert "model `none.gguf`: no such file" in message


def test_what_is_on_the_hub_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    assert check({"task": {"train": "org/data"}, "model": "org/model", "method": "sft"}) == ""


def test_faulty_rows_are_for_the_reader_to_tell(toy_recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{")
    assert check(toy_recipe) == ""


def test_the_kinds_are_those_of_one_mistake_or_a_recipe_error(toy_recipe: dict[str, Any]) -> None:
    toy_recipe |= {"model": "./none", "general": "none.jsonl"}
    with pytest.raises(RecipeError, match="2 mistakes"):
        check_recipe(recipe_from_dict(toy_recipe))
