"""Opening a data file so that nothing waits for ever and nothing swells without bound."""

from __future__ import annotations

import gzip
import io
import stat
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from telltune.data.row import StopReadingError
from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

__all__ = ["check_regular", "open_data"]

UNPACKED_BYTES = 64 * 2**20
UNPACKED_RATIO = 200
"""Past so many bytes, a gzip stream may give at most so many times what went in. Text gives 3 to
20; deflate at its most, which is zeros, 1,032."""


def check_regular(path: Path) -> None:
    """Refuse what would be waited for, or never ends: a FIFO, /dev/zero.

    Raises:
        DataError: It is not a regular file.
        OSError: It is not there, or a loop of links.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise DataError(f"{path} is not a regular file: give a file with data in it.")


@contextmanager
def open_data(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a regular file, unpacked if its name ends in `.gz`; it can be read again.

    Raises:
        DataError: It is not a regular file.
        StopReadingError: The gzip stream is damaged, or unpacks to more than data do.
        OSError: It cannot be opened or read.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            yield _Unpacked.reader(file) if path.suffix.lower() == ".gz" else file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise StopReadingError(
            1, f"the gzip stream is damaged ({error}): compress the file again"
        ) from None


class _Unpacked(io.RawIOBase):
    """A gzip stream that stops when it swells as only a bomb does."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._gzip = file, gzip.GzipFile(fileobj=file)

    @classmethod
    def reader(cls, file: BinaryIO) -> BinaryIO:
        """With a buffer, as other files have."""
        return io.BufferedReader(cls(file), 2**16)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in what is unpacked."""
        return self._gzip.seek(offset, whence)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._gzip.readinto(buffer)
        if self._gzip.tell() > max(UNPACKED_BYTES, UNPACKED_RATIO * self._file.tell()):
            raise StopReadingError(
                1,
                f"the gzip stream unpacks to over {UNPACKED_RATIO} times its size, as no text "
                "does: unpack it, and look at what is in it",
            )
        return count
