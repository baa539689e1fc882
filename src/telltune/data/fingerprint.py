"""Hashes of files and of code, so that what was made of them is made again only when they change.

A data file can have many gigabytes, so its hash is remembered together with what the file system
says of it (size, times, inode). If anything of that differs, the file is hashed anew.
"""

from __future__ import annotations

import hashlib
import stat
import time
from functools import cache
from pathlib import Path

from telltune.storage import cache_folder, read_cached_json, write_json
from telltune.version import VERSION

__all__ = ["code_hash", "file_hash"]

# A file that changes twice within one tick of its file system's clock (2 s on FAT) looks the same
# both times. So a hash is remembered only of a file that had been left alone for longer than that.
_TICK_NS = 2 * 10**9


def file_hash(path: Path) -> str | None:
    """The sha256 of a file's bytes, from memory where the file is what it was.

    Returns:
        None for what is no regular file or cannot be read: whoever reads it says why.
    """
    try:
        path = path.resolve()
        before = _identity(path)
        if before is None:
            return None
        memory = cache_folder("files") / f"{_sha256(str(path))[:32]}.json"
        remembered = read_cached_json(memory)
        if isinstance(remembered, dict) and remembered.get("identity") == before:
            return str(remembered["sha256"])
        began = time.time_ns()
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        latest = max(before[1], before[2])
        if _identity(path) == before and latest + _TICK_NS < began:
            write_json(memory, {"path": str(path), "identity": before, "sha256": found})
    except OSError:
        return None
    return found


def _identity(path: Path) -> list[int] | None:
    """What differs between two states of a file. A copy may keep its mtime, but never its ctime."""
    now = path.stat()
    if not stat.S_ISREG(now.st_mode):
        return None
    # The times stand second and third.
    return [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino, now.st_dev]


@cache
def code_hash(folder: Path = Path(__file__).parent) -> str:
    """A hash of code; by default of what turns files into examples, as another may read others.

    Args:
        folder: With Python files, at any depth.
    """
    digest = hashlib.sha256(VERSION.encode())
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
