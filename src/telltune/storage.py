"""Files that are whole or absent: atomic writes, and the cache folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telltune.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "atomic_folder",
    "cache_folder",
    "checksum",
    "checksums",
    "publish",
    "read_cached_json",
    "remove_unfinished",
    "write_bytes",
    "write_json",
    "write_text",
    "writing",
]

# What a kill leaves of a write: never read, and known by its name.
_UNFINISHED = ".unfinished"


def cache_folder(*parts: str) -> Path:
    """A folder for what can be made again: `$TELLTUNE_CACHE`, else the user's cache folder."""
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
        raise StorageError("you have no home folder for the cache; set TELLTUNE_CACHE.") from None


@contextmanager
def writing(path: Path, *, needed: int = 0) -> Iterator[None]:
    """Turn what the disk refuses into one sentence that names the place.

    Args:
        path: What is written.
        needed: Bytes that it takes, as far as is known.

    Raises:
        StorageError: No space, no permission, a read-only file system.
    """
    try:
        yield
    except Exception as error:
        refusal = _refusal(path, error, needed)
        if refusal is None:
            raise
        raise refusal from None


def _refusal(path: Path, error: Exception, needed: int) -> StorageError | None:
    """What to say of an error; None where it is not the disk's."""
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
# What safetensors, NumPy and torch.save say of a full disk, in errors that carry no errno.
_SHORT_WRITE = ("No space left on device", " requested and ", "iostream error", "inline_container")


def _free(path: Path) -> int:
    """Bytes that the disk still takes, which a path is on or would be."""
    return shutil.disk_usage(next(p for p in (path, *path.absolute().parents) if p.exists())).free


def _in_words(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


def write_text(path: Path, text: str) -> None:
    """Write a text file, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old file or the new one, never a part.

    It is on the disk when this returns: power may fail then.
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
            # mkstemp makes private files; an output is as readable as the user's umask says.
            umask = os.umask(0)
            os.umask(umask)
            Path(name).chmod(0o666 & ~umask)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_cached_json(path: Path) -> Any:
    """What a JSON file in the cache holds; None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextmanager
def atomic_folder(target: Path, *, needed: int = 0) -> Iterator[Path]:
    """Fill a temporary folder that becomes `target`, on the disk, only when all went well.

    When two processes make the same target at once, the first to finish wins and the other's copy
    is removed: both then see one whole folder.

    Args:
        target: The folder.
        needed: Bytes that it will hold, as far as is known.

    Raises:
        StorageError: The disk refuses.
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
        # As much as was written is needed at least.
        needed = max(needed, sum(file.stat().st_size for file in _files(filling)))
        shutil.rmtree(filling, ignore_errors=True)
        refusal = _refusal(target, error, needed)
        if refusal is None:
            raise
        raise refusal from None
    finally:
        shutil.rmtree(filling, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left of its writes into a folder that is ours alone."""
    for left in folder.glob(f".*{_UNFINISHED}"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def checksums(folder: Path) -> dict[str, str]:
    """The sha256 of every file in a folder, by its path in there."""
    return {path.relative_to(folder).as_posix(): checksum(path) for path in _files(folder)}


def checksum(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(filled: Path, target: Path) -> None:
    """Give a filled folder its name once all that is in it is on the disk.

    Raises:
        OSError: There is another of that name.
    """
    for path in (*_files(filled), *filter(Path.is_dir, filled.rglob("*")), filled):
        _sync(path)
    filled.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    if os.name == "nt":
        return  # Windows syncs only what is open for writing
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
