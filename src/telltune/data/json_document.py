"""Reader of a JSON document, one row at a time, for documents of any size.

A document is a list of objects, or an object with one list in it. Rows are split by their brackets
and quotes, and then decoded separately. An error in one row does not affect the others, and only
one row is in memory at a time.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from telltune.data.parsed_row import (
    BOM,
    MAX_ROW_BYTES,
    TOO_DEEP,
    TOO_LONG,
    Fault,
    Place,
    StopReadingError,
    not_json,
    parse_row,
    refuse_utf16,
    utf8_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from telltune.data.parsed_row import ParsedRow

__all__ = ["json_rows"]

CHUNK_BYTES = 2**20
MAX_DEPTH = 500
START = Place(1)

_SPACE = re.compile(rb"[ \t\n\r]*+")
_IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
# Matches whole strings and everything between them, up to a bracket or to a string that does not
# end in the buffer.
_FLAT = re.compile(rb'(?:[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
_AFTER_SCALAR = re.compile(rb'[ \t\n\r,:"\[\]{}]')
_CONTINUATION = bytes(range(0x80, 0xC0))
"""UTF-8 continuation bytes, which do not start a character."""


def json_rows(stream: BinaryIO) -> Iterator[ParsedRow | Fault]:
    """Yield the rows of a document.

    Raises:
        StopReadingError: The document is not valid JSON, or has an unsupported layout.
    """
    document = _Document(stream)
    opening = document.peek()
    if opening == b"[":
        yield from _elements(document)
        _check_end(document)
    elif opening == b"{":
        # The whole object is scanned before the first row, because a misnamed JSON Lines file also
        # starts with an object.
        yield from _elements(_Document(stream, *_only_list(document)))
    elif opening:
        place = document.place
        _decode(document.value() or b"", place)
        _check_end(document)
        raise _neither()


def _elements(document: _Document) -> Iterator[ParsedRow | Fault]:
    """Yield the elements of the list that starts at the current position."""
    document.take()
    if document.peek() == b"]":
        document.take()
        return
    while True:
        document.peek()
        place = document.place
        raw = document.value()
        row = Fault(place.line, TOO_LONG) if raw is None else parse_row(raw, place)
        if isinstance(row, Fault) and not document.peek():
            raise StopReadingError(*row)  # the file ends inside an element
        yield row
        if document.expect(b",", b"]") == b"]":
            return


def _only_list(document: _Document) -> tuple[int, Place]:
    """Return the start (position and place) of the only list in the object that starts here.

    Raises:
        StopReadingError: The object is not valid JSON, or does not have exactly one list.
    """
    lists = []
    document.take()
    if document.peek() == b"}":
        document.take()
    else:
        while True:
            _pass_key(document)
            document.expect(b":")
            if document.peek() == b"[":
                lists.append((document.position, document.place))
            document.skip()
            if document.expect(b",", b"}") == b"}":
                break
    _check_end(document)
    if len(lists) != 1:
        raise _neither()
    return lists[0]


def _pass_key(document: _Document) -> None:
    opening, place = document.peek(), document.place
    if opening != b'"':
        raise StopReadingError(
            place.line, f"not JSON: a key in double quotes is missing at column {place.column + 1}"
        )
    _decode(document.value() or b"", place)


def _check_end(document: _Document) -> None:
    if document.peek():
        line, _, column = document.place
        raise StopReadingError(
            line,
            f"not JSON: extra data at column {column + 1}; rename the file to .jsonl if it has "
            "one object per line",
        )


def _decode(raw: bytes, place: Place) -> None:
    """Raise `StopReadingError` unless a string or scalar is valid JSON."""
    try:
        json.loads(utf8_text(raw, place), parse_int=str)
    except json.JSONDecodeError as error:
        raise StopReadingError(*not_json(error, place)) from None


def _neither() -> StopReadingError:
    return StopReadingError(
        1, "the document is neither an array of objects nor an object with one list in it"
    )


class _Document:
    """Bytes of a document from a position on, read on demand and released once passed.

    Args:
        stream: Seekable stream.
        position: Position of the first byte to read.
        place: Line, byte and column of that byte.
    """

    def __init__(self, stream: BinaryIO, position: int = 0, place: Place = START) -> None:
        stream.seek(position)
        self._stream = stream
        self._buffer, self._at = b"", 0
        self._line, self._byte, self._column = place
        self.position = position
        """Number of bytes before the next byte."""
        if self._read() and not position:
            refuse_utf16(self._buffer)
            self._at = self.position = len(BOM) if self._buffer.startswith(BOM) else 0

    @property
    def place(self) -> Place:
        """Line, byte and column of the next byte."""
        return Place(self._line, self._byte, self._column)

    def peek(self) -> bytes:
        """Skip white space and return the next byte without consuming it; b"" at the end."""
        while True:
            space = _SPACE.match(self._buffer, self._at)
            self._pass(space.end() if space else self._at)
            if self._at < len(self._buffer) or not self._read():
                return self._buffer[self._at : self._at + 1]

    def take(self) -> None:
        """Consume the byte that `peek` returned."""
        self._pass(self._at + 1)

    def expect(self, *wanted: bytes) -> bytes:
        """Consume and return the next non-space byte, which must be one of `wanted`.

        Raises:
            StopReadingError: The next byte is a different one.
        """
        found = self.peek()
        if found not in wanted:
            names = " or ".join(f"`{byte.decode()}`" for byte in wanted)
            line, _, column = self.place
            raise StopReadingError(line, f"not JSON: {names} is missing at column {column + 1}")
        self.take()
        return found

    def value(self) -> bytes | None:
        """Consume and return the value that starts here. It is cut short if the file ends.

        Returns:
            Bytes of the value, or None if it exceeds `MAX_ROW_BYTES`.

        Raises:
            StopReadingError: The value is nested too deeply.
        """
        return self._through_value(keep=True)

    def skip(self) -> None:
        """Skip a value of any length.

        Raises:
            StopReadingError: The value is nested too deeply.
        """
        self._through_value(keep=False)

    def _through_value(self, *, keep: bool) -> bytes | None:
        at = self._at
        scan = _ValueScan(self._buffer[at : at + 1])
        while True:
            at, ended = scan.on(self._buffer, at)
            if scan.depth > MAX_DEPTH:
                raise StopReadingError(self._line, TOO_DEEP)
            keep = keep and at - self._at <= MAX_ROW_BYTES
            if ended:
                break
            # The buffer ends inside the value.
            if not keep:
                self._pass(at)
            at -= self._at
            if not self._read():
                at = len(self._buffer)
                break
        raw = self._buffer[self._at : at] if keep else None
        self._pass(at)
        return raw

    def _read(self) -> bool:
        """Release the passed bytes and read more. Return False at the end of the stream."""
        held = self._buffer[self._at :]
        # Reading as much as is held avoids a copy of a long value for each of its chunks.
        read = self._stream.read(max(CHUNK_BYTES, len(held)))
        self._buffer, self._at = held + read, 0
        return bool(read)

    def _pass(self, to: int) -> None:
        """Advance to a position in the buffer and count the lines on the way."""
        passed = self._buffer[self._at : to]
        newlines = passed.count(b"\n")
        if newlines:
            self._line += newlines
            self._byte = self._column = 0
        last = passed[passed.rfind(b"\n") + 1 :] if newlines else passed
        self._byte += len(last)
        self._column += len(last.translate(None, _CONTINUATION))
        self.position += len(passed)
        self._at = to


class _ValueScan:
    """Incremental search for the end of a value."""

    def __init__(self, opening: bytes) -> None:
        self.depth = 0
        self._is_scalar = opening not in (b'"', b"[", b"{")
        self._in_string = False

    def on(self, buffer: bytes, at: int) -> tuple[int, bool]:
        """Continue the scan in a buffer.

        Args:
            buffer: Bytes to scan.
            at: Position in `buffer` to continue from.

        Returns:
            Position reached, and whether the value ends there.
        """
        if self._is_scalar:
            after = _AFTER_SCALAR.search(buffer, at)
            return (after.start(), True) if after else (len(buffer), False)
        while True:
            if self._in_string:
                at = _string_end(buffer, at)
                if buffer[at : at + 1] != b'"':
                    return at, False
                at, self._in_string = at + 1, False
            else:
                at = _flat_end(buffer, at) if self.depth else at
                mark = buffer[at : at + 1]
                if not mark:
                    return at, False
                at += 1
                self._in_string = mark == b'"'
                if not self._in_string:
                    self.depth += 1 if mark in b"[{" else -1
            if not self.depth and not self._in_string:
                return at, True


def _flat_end(buffer: bytes, at: int) -> int:
    found = _FLAT.match(buffer, at)
    return found.end() if found else at


def _string_end(buffer: bytes, at: int) -> int:
    """Return the position of a string's closing quote, or of the end of the buffer."""
    quote = buffer.find(b'"', at)
    stop = quote if quote >= 0 else len(buffer)
    # Most strings contain no backslash, so `find` (a memchr) is enough.
    if buffer.find(b"\\", at, stop) < 0:
        return stop
    found = _IN_STRING.match(buffer, at)
    return found.end() if found else at
