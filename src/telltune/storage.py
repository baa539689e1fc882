"""Atomic writes, so that a file is complete or absent, and the cache folder."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from telltune.clock import clock, spare
from telltune.errors import StorageError

# Suffix of files and folders that are being written. Those left by a killed process are not read.
_UNFINISHED = ".unfinished"


def cache_folder(*parts: str) -> Path:
    """Return a folder in the cache, which is `$TELLTUNE_CACHE` or else the user's cache folder."""
    folder = _cache_root().joinpath(*parts)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _cache_root() -> Path:
    root = os.environ.get("TELLTUNE_CACHE")
    if root is not None:
        return Path(root)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "telltune"
    except RuntimeError:
        raise StorageError("there is no home folder for the cache; set TELLTUNE_CACHE.") from None


@contextmanager
def writing(path: Path, *, needed: int = 0) -> Iterator[None]:
    """Turn errors of the disk into a `StorageError` that names the path.

    Raises:
        StorageError: There is no space or permission, or the file system is read-only.
    """
    try:
        yield
    except Exception as error:
        refusal = _refusal(path, error, needed)
        if refusal is None:
            raise
        raise refusal from None


def _refusal(path: Path, error: Exception, needed: int) -> StorageError | None:
    """Return the error to raise; None if the disk did not cause it."""
    code = error.errno if isinstance(error, OSError) else None
    other = "choose another folder"
    if path.is_relative_to(_cache_root()):
        other = "set TELLTUNE_CACHE to another folder"
    if code in (errno.ENOSPC, errno.EDQUOT) or any(sign in str(error) for sign in _SHORT_WRITE):
        free = _free(path)
        wanted = _in_words(needed) if needed > free else f"over {_in_words(free)}"
        return StorageError(
            f"{path}: no space left on the disk; free some or {other}. Needed: {wanted}; free: "
            f"{_in_words(free)}."
        )
    if code in _REFUSED:
        return StorageError(f"{path}: cannot be written to ({os.strerror(code)}); {other}.")
    return None


_REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
    *(errno.EISDIR, errno.ENAMETOOLONG),
)
# Messages of safetensors, NumPy and torch.save for a full disk. Their errors have no errno.
_SHORT_WRITE = ("No space left on device", " requested and ", "iostream error", "inline_container")


def _free(path: Path) -> int:
    """Return the number of free bytes on the disk of a path, which need not exist yet."""
    return shutil.disk_usage(next(p for p in (path, *path.absolute().parents) if p.exists())).free


def _in_words(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically, so that a reader sees either the old file or the new one.

    The file is synced to the disk before this returns, so that it survives a power failure.
    """
    with writing(path, needed=len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED
        )
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _share(Path(name))
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; see `json_text`."""
    write_text(path, json_text(value, indent=2) + "\n")


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return JSON with null in place of NaN and infinity, which JSON does not have."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def or_nan(value: float | None) -> float:
    """Return a number read from JSON, and NaN for null."""
    return math.nan if value is None else value


def read_cached_json(path: Path) -> Any:
    """Return the contents of a JSON file in the cache; None if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def jsonl_lines(path: Path) -> list[bytes]:
    """Return the lines of a JSONL file with their line ends, in bytes, as `json.loads` reads them.

    `str.splitlines` would also split at characters that JSON may contain, such as U+2028.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return file.readlines()


def content_key(*parts: Any) -> str:
    """Return a name for a cache file that depends on values, which JSON can hold."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def make_once(path: Path, make: Callable[[], None]) -> None:
    """Call `make`, which writes a file or folder of the cache, unless it exists.

    On `clock`, one that exists counts as if it had been made now.
    """
    told = path.with_name(f"{path.name}.seconds")
    if path.exists():
        spare(read_cached_json(told) or 0.0)
        return
    began = clock()
    make()
    write_json(told, clock() - began)


def cached_json(path: Path, make: Callable[[], Any]) -> Any:
    """Return the contents of a JSON file in the cache; make and write them if there are none.

    See `make_once` for the time that this takes.
    """
    if read_cached_json(path) is None:
        path.unlink(missing_ok=True)
    make_once(path, lambda: write_json(path, make()))
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def atomic_folder(target: Path, *, needed: int = 0) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `target` if the block succeeds.

    If two processes make the same target at once, the first to finish wins and the other's copy is
    removed. Both then see one complete folder.

    Raises:
        StorageError: There is no space or permission, or the file system is read-only.
    """
    with writing(target, needed=needed):
        target.parent.mkdir(parents=True, exist_ok=True)
        filling = Path(
            tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=_UNFINISHED)
        )
    try:
        yield filling
        try:
            publish(filling, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    except Exception as error:
        # At least the bytes that were already written are needed.
        needed = max(needed, sum(file.stat().st_size for file in _files(filling)))
        shutil.rmtree(filling, ignore_errors=True)
        refusal = _refusal(target, error, needed)
        if refusal is None:
            raise
        raise refusal from None
    finally:
        shutil.rmtree(filling, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove unfinished writes of killed processes from a folder that this process has locked."""
    for left in folder.glob(f".*{_UNFINISHED}"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 hash of every file in a folder, keyed by relative path."""
    return {path.relative_to(folder).as_posix(): checksum(path) for path in _files(folder)}


def checksum(path: Path) -> str:
    """Return the SHA-256 hash of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(filled: Path, target: Path) -> None:
    """Rename a filled folder to its final path after syncing its contents to the disk.

    Raises:
        OSError: A folder of that name already exists.
    """
    for path in (*_files(filled), *filter(Path.is_dir, filled.rglob("*")), filled):
        _share(path)
        _sync(path)
    filled.rename(target)
    _sync(target.parent)


def _share(path: Path) -> None:
    """Give a file or folder the permissions of the user's umask.

    `tempfile` and safetensors make private ones, which nobody else on a shared disk could read.
    """
    path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())


def _umask() -> int:
    """Return the process's umask, on Linux without changing it for a moment for all threads."""
    status = Path("/proc/self/status")
    found = (
        re.search(r"^Umask:\s*([0-7]+)$", status.read_text(), re.MULTILINE)
        if status.exists()
        else None
    )
    if found:
        return int(found[1], 8)
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _sync(path: Path) -> None:
    if os.name == "nt":
        return  # Windows syncs only files that are open for writing.
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
