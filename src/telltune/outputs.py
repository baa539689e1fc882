"""Standard output and error that a run survives, whoever stops reading them.

A long run often outlives its reader: a closed SSH session, `| head`, a log collector that ended.
Python then raises at the next write, inside whatever computes at that moment.
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

__all__ = ["guard_outputs"]

_GONE = (errno.EPIPE, errno.ECONNRESET, errno.EBADF)
"""Errors of a pipe, a socket or a descriptor that nobody reads any more."""


def guard_outputs() -> None:
    """Replace `sys.stdout` and `sys.stderr` by streams that drop what nobody can read.

    Other errors, such as a full disk, are raised as before. Streams that are not the process's own
    (those of a notebook or a test) stay. Descriptors 0 to 2 that are closed are opened on the null
    device: the next file would get their number otherwise, and what is printed to that number.
    Calling it again changes nothing.
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
    """Writes to a descriptor of the process, or to nowhere once it is gone."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        # A terminal that was closed answers with an input/output error; from a disk it is real.
        terminal = stat.S_ISCHR(os.fstat(number).st_mode)
        self._gone = (*_GONE, errno.EIO) if terminal else _GONE

    def write(self, data: Buffer, /) -> int:
        """Write to the descriptor; claim to have written all where nobody can read it."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in self._gone:
                raise
            return memoryview(data).nbytes


def _guarded(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    raw = _Output(stream.fileno())
    return io.TextIOWrapper(
        # `python -u` has no buffer in between.
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
