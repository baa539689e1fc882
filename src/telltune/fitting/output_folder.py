"""Ownership of an output folder: new, resumable, or foreign."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from telltune.data.task import data_files
from telltune.errors import StorageError, TellError
from telltune.fitting.adapter_folder import TELL_JSON
from telltune.recipe import Recipe, read_yaml, recipe_from_dict
from telltune.storage import read_cached_json, remove_unfinished, write_json, write_text, writing

RECIPE_FILE = "recipe.yaml"
SETTINGS = "settings.json"
"""File with settings beside the recipe that a resumed run must share."""
LOCK = ".lock"
HOLDER = ".process.json"
# A user's own folder may also contain a recipe.yaml; this line identifies those of telltune.
_MARK = "# Written by telltune, which may replace this folder.\n"


@contextmanager
def lock_folder(out: Path) -> Iterator[None]:
    """Lock an output folder for this process.

    The operating system releases the lock when the process ends, even after a crash. The holder is
    recorded in a file for the error message of a second process.

    Raises:
        StorageError: Another process holds the lock, or the folder cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out} is a file; choose a folder.")
    made = not out.exists()
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        with writing(out):
            lock.acquire(timeout=0)
    except Timeout:
        raise StorageError(f"{out} is in use by {_holder(out)}; wait for it, or stop it.") from None
    try:
        write_json(out / HOLDER, {"process": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        (out / HOLDER).unlink(missing_ok=True)
        # The file is removed while the lock is held. A process that has the old file open then
        # notices that the file is gone, and tries again.
        (out / LOCK).unlink(missing_ok=True)
        lock.release()
        if made:
            with suppress(OSError):
                out.rmdir()  # This removes only an empty folder.


def _holder(out: Path) -> str:
    found = read_cached_json(out / HOLDER)
    if not isinstance(found, dict):
        return "another process"  # It has not yet written its name.
    return f"process {found['process']} on {found['host']}"


def check_new(out: Path, way_out: str = "choose another --out") -> None:
    """Check that an output folder has no files except those of its lock.

    Args:
        out: The folder.
        way_out: Advice of the message.

    Raises:
        StorageError: It has other files.
    """
    if _contents(out):
        raise StorageError(f"{out} contains files that telltune did not write; {way_out}.")


def check_settings(
    out: Path, settings: Mapping[str, Any], way_out: str = "choose another --out"
) -> None:
    """Check that an output folder has no settings of a run, or these.

    Args:
        out: The folder.
        settings: Values that a resumed run must share, by name.
        way_out: Advice of the message.

    Raises:
        StorageError: A setting differs.
    """
    path = out / SETTINGS
    if not path.exists():
        return
    found = read_cached_json(path)
    kept = found if isinstance(found, dict) else {}
    for name, value in settings.items():
        if kept.get(name) != value:
            raise StorageError(
                f"{out} holds a run with {name.replace('_', ' ')} {kept.get(name)}, not {value}; "
                f"{way_out}."
            )


def check_resumable(out: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Check that an output folder is new or holds an unfinished run of the same recipe.

    Raises:
        StorageError: The folder holds something else.
    """
    if not out.exists():
        return
    saved = out / RECIPE_FILE
    with writing(out):
        found = saved.read_text(encoding="utf-8", errors="replace") if saved.is_file() else ""
    if not found.startswith(_MARK):
        check_new(out)
    if overwrite:
        for file in data_files(recipe):
            if file.resolve().is_relative_to(out.resolve()):
                raise StorageError(
                    f"{file} is read by this command and would be removed by --overwrite; choose "
                    "another --out."
                )
        return  # `record_recipe` empties the folder once the new run can start.
    if (out / TELL_JSON).exists():
        raise StorageError(
            f"{out} contains a finished run; choose another --out, or pass --overwrite."
        )
    if found and not _is(saved, recipe):
        raise StorageError(
            f"{out} contains an unfinished run of another recipe; choose another --out, or pass "
            "--overwrite."
        )


def _is(saved: Path, recipe: Recipe) -> bool:
    """Return whether a file holds this recipe; missing keys have their default values."""
    try:
        found = recipe_from_dict(read_yaml(saved, "recipe"))
    except TellError:
        return False
    return found.model_dump() == recipe.model_dump()


def record_recipe(out: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Write the recipe to the folder before the first checkpoint; `overwrite` empties it first."""
    with writing(out):
        for path in _contents(out) if overwrite and out.exists() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    remove_unfinished(out)
    write_text(out / RECIPE_FILE, _MARK + recipe.to_yaml())


def _contents(out: Path) -> list[Path]:
    """Return the paths in a folder except the lock files."""
    return [path for path in out.iterdir() if path.name not in (LOCK, HOLDER)]
