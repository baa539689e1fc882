"""Nothing is written outside of the output folder, whatever names and archives contain."""

from __future__ import annotations

import gzip
import io
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import telltune
from telltune.data.formats import read_rows
from telltune.errors import TellError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UP = "../../up"


@pytest.fixture
def strays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], object]], set[str]]:
    """Return a function that runs another in a deep folder, and returns files beside `out`."""
    work = tmp_path / "one" / "two"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)

    def state() -> set[tuple[str, int]]:
        return {
            (str(path.relative_to(tmp_path)), path.stat().st_mtime_ns)
            for path in tmp_path.rglob("*")
            if path.is_file() and not path.is_relative_to(work / "out")
        }

    def call(function: Callable[[], object]) -> set[str]:
        before = state()
        function()
        return {path for path, _ in state() ^ before}

    return call


def test_a_fit_writes_into_its_folder_only(
    toy_recipe: dict[str, Any], toy_task: dict[str, Path], strays: Any
) -> None:
    # A source has the name of its file.
    odd = toy_task["train"].with_name("..\\..%2fup;$(touch up).jsonl")
    toy_task["train"].rename(odd)
    general = toy_task["general"]
    recipe = toy_recipe | {
        "task": {"train": str(odd), "test": str(toy_task["test"])},
        "general": f"{general.parent}/../{general.parent.name}/{general.name}",
        "mixture": {"passes": 1},
        "anchor": {"prompt": UP, "response": UP},
    }
    assert strays(lambda: telltune.fit(recipe, "out", progress=False)) == set()


def test_a_study_writes_into_its_folder_whatever_its_cells_are_called(
    toy_recipe: dict[str, Any], tmp_path: Path, strays: Any
) -> None:
    toy_recipe["evaluation"] = {"max_items": 2, "max_new_tokens": 2}
    study = tmp_path / "study.yaml"
    study.write_text(
        yaml.safe_dump(
            {
                "recipe": toy_recipe,
                "tasks": [{"name": f"/{UP}", "task": toy_recipe["task"], "anchor": UP}],
                "methods": [{"method": "base", "name": UP}, {"method": "base_anchor", "name": "/"}],
                "sizes": [100],
                "forgetting": {"examples": 0, "prompts": 0},
            }
        )
    )
    assert strays(lambda: telltune.run_study(study, "out", progress=False)) == set()


@pytest.mark.parametrize(
    "change",
    [
        {"method": UP},
        {"task": UP},
        {"task": {"embedded": "/etc"}},
        {"evaluation": {"metrics": [UP]}},
    ],
)
def test_a_name_that_is_a_path_is_no_name(
    toy_recipe: dict[str, Any], change: Any, strays: Any
) -> None:
    def refused() -> None:
        with pytest.raises(TellError, match=r"there is no|embedded task"):
            telltune.fit(toy_recipe | change, "out", progress=False)

    assert strays(refused) == set()


def test_the_name_that_an_archive_brings_is_not_used(tmp_path: Path, strays: Any) -> None:
    packed = io.BytesIO()
    with gzip.GzipFile(f"{UP}/evil.jsonl", "wb", fileobj=packed) as file:
        file.write(b'{"a": "x"}\n')
    assert b"evil.jsonl" in packed.getvalue()
    (tmp_path / "a.jsonl.gz").write_bytes(packed.getvalue())

    rows: list[object] = []
    assert strays(lambda: rows.extend(read_rows(tmp_path / "a.jsonl.gz"))) == set()
    assert len(rows) == 1
