"""Opening of data files, with protection against blocking files and gzip bombs."""

from __future__ import annotations

import gzip
import io
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from telltune.data.parsed_row import StopReadingError
from telltune.errors import DataError

UNPACKED_BYTES = 64 * 2**20
UNPACKED_RATIO = 200
"""Maximum ratio of unpacked to packed bytes in a gzip stream after the first `UNPACKED_BYTES`. Text
has ratios of 3 to 20. The maximum of deflate, reached for zeros, is 1,032."""


def check_regular(path: Path) -> None:
    """Refuse a path that would block or never end, such as a FIFO or /dev/zero.

    Raises:
        DataError: The path is not a regular file.
        OSError: The path does not exist, or is a loop of links.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise DataError(f"{path} is not a regular file: give a regular data file.")


@contextmanager
def open_data(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file as a seekable stream of bytes, unpacked if its name ends in `.gz`.

    Raises:
        DataError: The path is not a regular file.
        StopReadingError: The gzip stream is damaged, or its ratio exceeds `UNPACKED_RATIO`.
        OSError: The file cannot be opened or read.
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
    """Gzip stream that stops at a ratio which only a gzip bomb reaches."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._gzip = file, gzip.GzipFile(fileobj=file)

    @classmethod
    def reader(cls, file: BinaryIO) -> BinaryIO:
        """Return a buffered reader of a gzip file."""
        return io.BufferedReader(cls(file), 2**16)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Seek in the unpacked bytes."""
        return self._gzip.seek(offset, whence)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._gzip.readinto(buffer)
        if self._gzip.tell() > max(UNPACKED_BYTES, UNPACKED_RATIO * self._file.tell()):
            raise StopReadingError(
                1,
                f"the gzip stream unpacks to over {UNPACKED_RATIO} times its size, unlike any "
                "text: unpack it and check its contents",
            )
        return count
