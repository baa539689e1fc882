"""Hashes of files and of code, so that cached results are recomputed only after a change.

A data file can have many gigabytes. Its hash is therefore cached with the file's metadata (size,
times, inode), and the file is hashed again only if the metadata differ.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from functools import cache
from pathlib import Path

from telltune.storage import cache_folder, read_cached_json, write_json
from telltune.version import VERSION

# Two changes within one tick of the file system's clock (2 s on FAT) leave the same metadata. So a
# hash is cached only if the file did not change for longer than one tick.
_TICK_NS = 2 * 10**9


def file_hash(path: Path) -> str | None:
    """Return the SHA-256 of a file's bytes, from the cache if the file is unchanged.

    Returns:
        Hexadecimal hash, or None if the path is not a regular file or cannot be read. The reader
        of the file reports the reason.
    """
    try:
        path = path.resolve()
        before = _identity(path)
        if before is None:
            return None
        name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
        memory = cache_folder("files") / f"{name}.json"
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


def file_stamp(path: Path) -> str | None:
    """Return metadata that change with a file, which need not be read.

    Returns:
        None if the path is not a regular file, cannot be read, or changed so recently that a
        further change might not show.
    """
    try:
        told = _identity(path.resolve())
    except OSError:
        return None
    if told is None or max(told[1], told[2]) + _TICK_NS >= time.time_ns():
        return None
    return repr(told)


def _identity(path: Path) -> list[int] | None:
    """Return metadata that change with the file. A copy can keep its mtime, but not its ctime."""
    now = path.stat()
    if not stat.S_ISREG(now.st_mode):
        return None
    # `file_hash` reads the times at positions 1 and 2.
    return [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino, now.st_dev]


@cache
def code_hash(folder: Path = Path(__file__).parent) -> str:
    """Return a hash of code, by default of `telltune.data`, which turns files into examples."""
    digest = hashlib.sha256(VERSION.encode())
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
