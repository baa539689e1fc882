"""RCL trains on rationales before answers, and finally on answers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from telltune.answering import predict
from telltune.api import fit
from telltune.data.task import load_task
from telltune.errors import DataError
from telltune.fitting.adapter_folder import load_predictor
from telltune.methods.rcl import with_reasons
from telltune.recipe import recipe_from_dict
from telltune.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHAPES = ("ball", "box")


@pytest.fixture
def reasoned(
    toy_recipe: dict[str, Any], tmp_path: Path, write_jsonl: Callable[..., Path]
) -> dict[str, Any]:
    """Return a recipe with a column of rationales, which is empty in the last row."""
    rows = [
        {"ask": f"item {n}", "say": SHAPES[n % 2], "why": f"{n} is {('even', 'odd')[n % 2]}."}
        for n in range(12)
    ]
    rows[-1]["why"] = ""
    train = write_jsonl(tmp_path / "why.jsonl", rows)
    columns = {"prompt": "ask", "completion": "say", "rationale": "why"}
    task = toy_recipe["task"] | {"train": {"path": str(train), "columns": columns}}
    mixture = {"passes": 40}
    training = toy_recipe["training"] | {"full_parameters": True}
    return toy_recipe | {
        "task": task,
        "method": "rcl",
        "general": None,
        "mixture": mixture,
        "training": training,
    }


def test_a_column_stands_before_the_answer(
    reasoned: dict[str, Any], tiny_base: Any, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_from_dict(reasoned)
    task, _ = with_reasons(load_task(recipe), tiny_base, recipe)
    said = {example.prompt: example.completion for example in task.train}
    assert said["item 3"] == "3 is odd.\nAnswer: box"
    assert said["item 11"] == "Answer: box"
    assert "1 of 12 examples have no rationale, so they are learned" in caplog.text


def test_a_model_reasons_and_gives_the_answer_alone(
    reasoned: dict[str, Any], tmp_path: Path
) -> None:
    record = fit(reasoned, tmp_path / "out", progress=False).record
    found = load_predictor(tmp_path / "out")
    assert found.answer_after == record["answer_after"] == "Answer:"
    answers = predict(tmp_path / "out", [f"item {n}" for n in range(6)])
    assert sum(a == SHAPES[n % 2] for n, a in enumerate(answers)) >= 5
    assert not any(check.held is False for check in verify(tmp_path / "out").checks)


@pytest.mark.usefixtures("short_chains")
def test_without_a_column_the_model_writes_reasons_for_labels_alone(
    toy_recipe: dict[str, Any], tiny_base: Any, tmp_path: Path, write_jsonl: Callable[..., Path]
) -> None:
    recipe = recipe_from_dict(toy_recipe)
    task, used = with_reasons(load_task(recipe), tiny_base, recipe)
    assert used.task.max_tokens is None
    assert all("Answer: " in example.completion for example in task.train)
    free = [{"prompt": f"q{n}", "completion": f"a{n}"} for n in range(6)]
    other = toy_recipe["task"] | {"train": str(write_jsonl(tmp_path / "free.jsonl", free))}
    recipe = recipe_from_dict(toy_recipe | {"task": other})
    with pytest.raises(DataError, match="closed set"):
        with_reasons(load_task(recipe), tiny_base, recipe)
