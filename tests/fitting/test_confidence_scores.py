"""Confidences of examples come from a column or from PVI, and scale the training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from telltune.api import fit
from telltune.errors import DataError, RecipeError
from telltune.fitting.adapter_folder import read_tell
from telltune.fitting.selection import from_bits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_no_information_is_three_quarters_and_bits_go_to_one_or_a_half() -> None:
    odds = from_bits(np.array([-2000.0, -1.0, 0.0, 1.0, 2000.0]))
    np.testing.assert_allclose(odds, [0.5, 0.5 + 1 / 6, 0.75, 0.5 + 1 / 3, 1.0])


@pytest.fixture
def trusted(
    toy_recipe: dict[str, Any], tmp_path: Path, write_jsonl: Callable[..., Path]
) -> Callable[..., dict[str, Any]]:
    """Return a function that makes a recipe whose rows have the given confidences."""

    def made(sure: object, **settings: Any) -> dict[str, Any]:
        rows = [{"ask": f"item {n} is round", "say": "ball", "sure": sure} for n in range(12)]
        train = write_jsonl(tmp_path / "trusted.jsonl", rows)
        columns = {"prompt": "ask", "completion": "say", "confidence": "sure"}
        task = toy_recipe["task"] | {"train": {"path": str(train), "columns": columns}}
        short = {"mixture": {"passes": 1}, "task": task, "method": "sft", "general": None}
        return toy_recipe | short | settings

    return made


def first_losses(recipe: dict[str, Any], out: Path) -> tuple[float, float]:
    """Return the minimized loss and the nll per token of the first step."""
    import json

    fit(recipe, out, progress=False)
    row = json.loads((out / "training_log.jsonl").read_text().splitlines()[0])
    return row["loss"], row["loss_task"]


def test_output_scales_the_loss_and_input_the_prompt(
    trusted: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    plain, nll = first_losses(trusted(0.25), tmp_path / "plain")
    output, same = first_losses(trusted(0.25, confidence={"scale": "output"}), tmp_path / "output")
    assert same == pytest.approx(nll)
    assert output == pytest.approx(plain / 4, rel=1e-3)
    scaled, other = first_losses(trusted(0.25, confidence={"scale": "input"}), tmp_path / "input")
    assert other != pytest.approx(nll, rel=1e-3)
    both, _ = first_losses(trusted(0.25, confidence={"scale": "both"}), tmp_path / "both")
    assert both == pytest.approx(scaled / 4, rel=1e-3)
    # With full confidence, nothing is scaled.
    whole, _ = first_losses(trusted(1, confidence={"scale": "both"}), tmp_path / "whole")
    assert whole == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("confidence", [0, 1.5, "much", None])
def test_a_confidence_that_is_none_is_refused_with_its_line(
    trusted: Callable[..., dict[str, Any]], tmp_path: Path, confidence: object
) -> None:
    with pytest.raises(DataError, match=r"trusted\.jsonl:1: .*confidence"):
        fit(trusted(confidence, confidence="column"), tmp_path / "out", progress=False)


def test_a_column_that_nobody_names_is_refused(toy_recipe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="names that column"):
        fit(toy_recipe | {"confidence": "column"}, tmp_path / "out", progress=False)


def test_pvi_gives_confidences_too(toy_recipe: dict[str, Any], tmp_path: Path) -> None:
    settings = {"selection": {"folds": 2, "drop_hardest": 0.25}, "mixture": {"passes": 1}}
    found, _ = first_losses(toy_recipe | settings | {"confidence": "pvi"}, tmp_path / "out")
    record = read_tell(tmp_path / "out")
    assert record["seconds"] > record["selection"]["seconds"]
    assert math.isfinite(record["seconds"])
    # Confidences by PVI are at least a half and below one, so they reduce the loss.
    plain, _ = first_losses(toy_recipe | settings, tmp_path / "plain")
    assert plain / 2 < found < plain
