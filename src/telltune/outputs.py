"""Standard output and error that do not end a run when their reader is gone.

A long run often outlives its reader: a closed SSH session, `| head`, a log collector that ended.
Python then raises an error at the next write, in the middle of any computation.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

_GONE = (errno.EPIPE, errno.ECONNRESET, errno.EBADF)
"""Error codes of a pipe, socket or descriptor without a reader."""


_VERBOSITY = {"level": 0}


def verbosity() -> int:
    """Return -1 if only results and errors are printed, 1 with the log of libraries, else 0."""
    return _VERBOSITY["level"]


def set_verbosity(level: int) -> None:
    """Set the level that `verbosity` returns."""
    _VERBOSITY["level"] = level


def guard_outputs() -> None:
    """Replace `sys.stdout` and `sys.stderr` by streams that drop output without a reader.

    Other errors, such as a full disk, are raised as before. Streams that do not belong to the
    process (those of a notebook or a test) are kept. Closed descriptors 0 to 2 are opened on the
    null device; otherwise the next file would get their number, and receive printed output.
    Further calls have no effect.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream.closed:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, nowhere)
        elif stream is getattr(sys, f"__{name}__"):
            guarded = _guarded(stream)
            with suppress(OSError):
                stream.flush()
            setattr(sys, name, guarded)


class _Output(io.FileIO):
    """Stream to a descriptor of the process; drops output once the reader is gone."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        # A closed terminal raises an input/output error. On a disk the same error is a real one.
        terminal = stat.S_ISCHR(os.fstat(number).st_mode)
        self._gone = (*_GONE, errno.EIO) if terminal else _GONE

    def write(self, data: Buffer, /) -> int:
        """Write to the descriptor; if the reader is gone, report all bytes as written."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in self._gone:
                raise
            return memoryview(data).nbytes


def _guarded(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    raw = _Output(stream.fileno())
    return io.TextIOWrapper(
        # `python -u` uses no buffer.
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
