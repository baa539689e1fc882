"""The notebooks run, with short settings in place of those in their first cell."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from telltune.valuation.embeddings import is_installed

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"


@pytest.fixture
def run(toy_recipe: dict[str, Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that runs a notebook's cells with other parameters."""
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(toy_recipe))

    def run(name: str, **parameters: object) -> dict[str, Any]:
        cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        space: dict[str, Any] = {}
        for cell in cells:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), space)
                if "parameters" in cell["metadata"].get("tags", ()):
                    assert parameters.keys() <= space.keys()
                    space.update(parameters)
        return space

    return run


def test_first_fit(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    ran = run(
        "first_fit",
        RECIPE=str(tmp_path / "toy.yaml"),
        OUT=str(tmp_path / "out"),
        QUESTION="item 7 is round",
    )
    assert {point["source"] for point in ran["points"]} == {"task", "general"}
    assert ran["evaluation"].scores


def test_reading_a_study(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with tarfile.open(ROOT / "benchmarks" / "leverage" / "rows.tar.xz") as rows:
        rows.extractall(tmp_path / "study", filter="data")
    ran = run("reading_a_study", STUDY=str(tmp_path / "study"))
    assert len(ran["rows"]) > 50


@pytest.mark.skipif(not is_installed(), reason="the embedded sentence encoder is not installed")
def test_levers(
    run: Callable[..., dict[str, Any]], toy_task: dict[str, Path], tmp_path: Path
) -> None:
    ran = run(
        "levers",
        INPUTS=str(toy_task["train"]),
        COLUMNS={"prompt": "prompt", "completion": "completion"},
        RECIPE=str(tmp_path / "toy.yaml"),
        OUT=str(tmp_path / "out"),
    )
    assert len(ran["picked"].rows) == 8
    assert ran["record"]["classifier"]
