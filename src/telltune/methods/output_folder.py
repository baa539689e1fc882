"""Whose an output folder is: a new one, the same run cut short, or somebody else's."""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from telltune.errors import StorageError, TellError
from telltune.methods.adapter_folder import TELL_JSON
from telltune.recipe import read_yaml, recipe_from_dict
from telltune.storage import read_cached_json, remove_unfinished, write_json, write_text, writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from telltune.recipe import Recipe

__all__ = ["RECIPE_FILE", "alone", "claim", "record_recipe"]

RECIPE_FILE = "recipe.yaml"
LOCK = ".lock"
HOLDER = ".process.json"
# A user's own folder may well hold a recipe.yaml too; this line is what makes one of ours.
_MARK = "# Written by telltune, which may replace this folder.\n"


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep an output folder to this process for as long as it fills it.

    The lock is the operating system's, so it ends with the process, however that dies. Whose it is
    stands beside it, for the message that a second process gets.

    Raises:
        StorageError: Another process has it, or it cannot be written to.
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
        # While it is held: who opens the old file meanwhile finds that it is gone, and tries again.
        (out / LOCK).unlink(missing_ok=True)
        lock.release()
        if made:
            with suppress(OSError):
                out.rmdir()  # where nothing came into it


def _holder(out: Path) -> str:
    found = read_cached_json(out / HOLDER)
    if not isinstance(found, dict):
        return "another process"  # which has only just begun
    return f"process {found['process']} on {found['host']}"


def claim(out: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Make sure that an output folder is new, or holds the unfinished run of this very recipe.

    Raises:
        StorageError: It holds something else.
    """
    if not out.exists():
        return
    saved = out / RECIPE_FILE
    with writing(out):
        found = saved.read_text(encoding="utf-8", errors="replace") if saved.is_file() else ""
    if _contents(out) and not found.startswith(_MARK):
        raise StorageError(f"{out} holds what telltune did not write; choose another --out.")
    if overwrite:
        return  # `record_recipe` empties it, once the new run is known to be able to start
    if (out / TELL_JSON).exists():
        raise StorageError(
            f"{out} holds a finished run; choose another --out, or give --overwrite."
        )
    if found and not _is(saved, recipe):
        raise StorageError(
            f"{out} holds an unfinished run of another recipe; choose another --out, or give "
            "--overwrite."
        )


def _is(saved: Path, recipe: Recipe) -> bool:
    """Whether a file holds this recipe; keys that an earlier telltune lacked are at defaults."""
    try:
        found = recipe_from_dict(read_yaml(saved, "recipe"))
    except TellError:
        return False
    return found.model_dump() == recipe.model_dump()


def record_recipe(out: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Write down whose run a folder is, before the first checkpoint; empty it to overwrite it."""
    with writing(out):
        for path in _contents(out) if overwrite and out.exists() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    remove_unfinished(out)
    write_text(out / RECIPE_FILE, _MARK + recipe.to_yaml())


def _contents(out: Path) -> list[Path]:
    """What a folder holds, but for the lock."""
    return [path for path in out.iterdir() if path.name not in (LOCK, HOLDER)]
