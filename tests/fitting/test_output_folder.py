"""An output folder belongs to one run at a time."""

from __future__ import annotations

import json
import os
import shutil
import socket
from typing import TYPE_CHECKING, Any

import pytest

from telltune.errors import StorageError
from telltune.fitting.output_folder import check_resumable, lock_folder, record_recipe
from telltune.recipe import recipe_from_dict

if TYPE_CHECKING:
    from pathlib import Path


def test_nobody_else_may_have_it_meanwhile(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with lock_folder(out):
        whose = f"in use by process {os.getpid()} on {socket.gethostname()}; wait for it, or stop"
        with pytest.raises(StorageError, match=whose), lock_folder(out):
            pytest.fail("two at once")
    with lock_folder(out):
        pass


def test_a_folder_that_nothing_came_into_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock_folder(tmp_path / "out"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with lock_folder(tmp_path / "mine"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]
    assert list((tmp_path / "mine").iterdir()) == []


def test_what_the_dead_left_of_a_lock_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".process.json").write_text(json.dumps({"process": 1, "host": "elsewhere"}))
    with lock_folder(tmp_path):
        held = json.loads((tmp_path / ".process.json").read_text())
        assert held == {"process": os.getpid(), "host": socket.gethostname()}
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with (
        pytest.raises(StorageError, match="is a file; choose a folder"),
        lock_folder(tmp_path / "out"),
    ):
        pytest.fail("not a folder")


def test_to_overwrite_keeps_the_lock_and_nothing_else(
    tmp_path: Path, toy_recipe: dict[str, Any]
) -> None:
    recipe, out = recipe_from_dict(toy_recipe), tmp_path / "out"
    with lock_folder(out):
        check_resumable(out, recipe, overwrite=False)
        record_recipe(out, recipe, overwrite=False)
        (out / "checkpoints").mkdir()
        (out / ".adapter.12345678.unfinished").mkdir()
    with lock_folder(out):
        check_resumable(out, recipe, overwrite=True)
        record_recipe(out, recipe, overwrite=True)
        names = {path.name for path in out.iterdir()}
        assert names == {".lock", ".process.json", "recipe.yaml"}
        with pytest.raises(StorageError, match="in use"), lock_folder(out):
            pytest.fail("two at once")


def test_what_a_kill_left_half_written_is_removed_by_the_run_that_goes_on(
    tmp_path: Path, toy_recipe: dict[str, Any]
) -> None:
    recipe, out = recipe_from_dict(toy_recipe), tmp_path / "out"
    record_recipe(out, recipe, overwrite=False)
    (out / ".adapter.12345678.unfinished").mkdir()
    (out / ".tell.json.12345678.unfinished").touch()
    (out / "training_log.jsonl").touch()
    check_resumable(out, recipe, overwrite=False)
    record_recipe(out, recipe, overwrite=False)
    assert {path.name for path in out.iterdir()} == {"recipe.yaml", "training_log.jsonl"}


def test_a_lock_does_not_make_a_strangers_folder_ours(
    tmp_path: Path, toy_recipe: dict[str, Any]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").touch()
    with lock_folder(folder), pytest.raises(StorageError, match="did not write"):
        check_resumable(folder, recipe_from_dict(toy_recipe), overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_a_run_goes_on_that_was_begun_before_a_key_existed(
    tmp_path: Path, toy_recipe: dict[str, Any]
) -> None:
    recipe, out = recipe_from_dict(toy_recipe), tmp_path / "out"
    record_recipe(out, recipe, overwrite=False)
    saved = out / "recipe.yaml"
    text = saved.read_text().replace("pseudo_label: null\n", "").replace("  unlabeled: null\n", "")
    assert text != saved.read_text()
    saved.write_text(text)
    check_resumable(out, recipe, overwrite=False)
    for other in (text.replace("seed: 0", "seed: 1"), "# Written by telltune, which may\n", "["):
        saved.write_text(other)
        with pytest.raises(StorageError, match=r"another recipe|did not write"):
            check_resumable(out, recipe, overwrite=False)


def test_to_overwrite_does_not_remove_the_data(tmp_path: Path, toy_recipe: dict[str, Any]) -> None:
    out = tmp_path / "out"
    record_recipe(out, recipe_from_dict(toy_recipe), overwrite=False)
    data = shutil.copy(toy_recipe["task"]["train"], out / "made.jsonl")
    recipe = recipe_from_dict(toy_recipe | {"task": {"train": str(data)}})
    with pytest.raises(StorageError, match="would be removed by --overwrite; choose another"):
        check_resumable(out, recipe, overwrite=True)
