"""Files that are whole or absent: atomic writes, and the cache folder."""

from __future__ import annotations

import errno
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
    "read_cached_json",
    "write_json",
    "write_text",
    "writing",
]


def cache_folder(*parts: str) -> Path:
    """A folder for what can be made again: `$TELLTUNE_CACHE`, else the user's cache folder."""
    root = os.environ.get("TELLTUNE_CACHE")
    if root is None:
        root = str(Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "telltune")
    folder = Path(root).joinpath(*parts)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into one sentence that names the place.

    Raises:
        StorageError: No space, no permission, a read-only file system.
    """
    try:
        yield
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        if code in (errno.ENOSPC, errno.EDQUOT) or any(sign in str(error) for sign in _SHORT_WRITE):
            raise StorageError(
                f"{path}: no space left on the disk; free some or choose another folder."
            ) from None
        if code in _REFUSED:
            raise StorageError(
                f"{path}: cannot be written to ({os.strerror(code)}); choose another folder."
            ) from None
        raise


_REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
    *(errno.EISDIR, errno.ENAMETOOLONG),
)
# What safetensors, NumPy and torch.save say of a full disk, in errors that carry no errno.
_SHORT_WRITE = ("No space left on device", " requested and ", "iostream error", "inline_container")


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old file or the new one, never a part."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
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
def atomic_folder(target: Path) -> Iterator[Path]:
    """Fill a temporary folder that becomes `target` only when all went well.

    When two processes make the same target at once, the first to finish wins and the other's copy
    is removed: both then see one whole folder.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        filling = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            yield filling
            try:
                filling.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        finally:
            shutil.rmtree(filling, ignore_errors=True)
