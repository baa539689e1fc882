"""A JSON document read a row at a time, so that neither its size nor its shape is a burden.

A document is a list of objects, or an object with one list in it. Rows are cut out of the bytes by
their brackets and quotes, and each is then decoded for itself: what is wrong with one is its own
problem, and no more than one is in memory.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from telltune.data.row import (
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

    from telltune.data.row import Row

__all__ = ["json_rows"]

CHUNK_BYTES = 2**20
MAX_DEPTH = 500
START = Place(1)

_SPACE = re.compile(rb"[ \t\n\r]*+")
_IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
# Whole strings and all that stands between them: up to a bracket, or a string that does not end in
# the bytes at hand.
_FLAT = re.compile(rb'(?:[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
_AFTER_SCALAR = re.compile(rb'[ \t\n\r,:"\[\]{}]')
_CONTINUATION = bytes(range(0x80, 0xC0))
"""Bytes of UTF-8 that begin no character."""


def json_rows(stream: BinaryIO) -> Iterator[Row | Fault]:
    """The rows of a document.

    Raises:
        StopReadingError: It is no JSON from some place on, or is laid out in another way.
    """
    document = _Document(stream)
    opening = document.peek()
    if opening == b"[":
        yield from _elements(document)
        _check_end(document)
    elif opening == b"{":
        # Read through before the first row: JSON lines under a wrong name begin like this, too.
        yield from _elements(_Document(stream, *_only_list(document)))
    elif opening:
        place = document.place
        _decode(document.value() or b"", place)
        _check_end(document)
        raise _neither()


def _elements(document: _Document) -> Iterator[Row | Fault]:
    """The elements of the list that begins here."""
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
            raise StopReadingError(*row)  # the file ends in the midst of an element
        yield row
        if document.expect(b",", b"]") == b"]":
            return


def _only_list(document: _Document) -> tuple[int, Place]:
    """Where the only list among the values of the object that begins here opens."""
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
            f"not JSON: extra data at column {column + 1}; name it .jsonl if it holds an object "
            "a line",
        )


def _decode(raw: bytes, place: Place) -> None:
    """Raise unless a text or number is JSON."""
    try:
        json.loads(utf8_text(raw, place), parse_int=str)
    except json.JSONDecodeError as error:
        raise StopReadingError(*not_json(error, place)) from None


def _neither() -> StopReadingError:
    return StopReadingError(
        1, "the document is neither an array of objects nor an object with one list in it"
    )


class _Document:
    """The bytes of a document from some place on, read as they are needed and let go when passed.

    Args:
        stream: Can be read again.
        position: Bytes before the first to read.
        place: Of that first byte.
    """

    def __init__(self, stream: BinaryIO, position: int = 0, place: Place = START) -> None:
        stream.seek(position)
        self._stream = stream
        self._buffer, self._at = b"", 0
        self._line, self._byte, self._column = place
        self.position = position
        """Bytes before the next."""
        if self._read() and not position:
            refuse_utf16(self._buffer)
            self._at = self.position = len(BOM) if self._buffer.startswith(BOM) else 0

    @property
    def place(self) -> Place:
        """Of the next byte."""
        return Place(self._line, self._byte, self._column)

    def peek(self) -> bytes:
        """The next byte that is no white space, which is passed over; empty at the end."""
        while True:
            space = _SPACE.match(self._buffer, self._at)
            self._pass(space.end() if space else self._at)
            if self._at < len(self._buffer) or not self._read():
                return self._buffer[self._at : self._at + 1]

    def take(self) -> None:
        """Pass over the byte that `peek` found."""
        self._pass(self._at + 1)

    def expect(self, *wanted: bytes) -> bytes:
        """Pass over one of these.

        Raises:
            StopReadingError: Something else stands there.
        """
        found = self.peek()
        if found not in wanted:
            names = " or ".join(f"`{byte.decode()}`" for byte in wanted)
            line, _, column = self.place
            raise StopReadingError(line, f"not JSON: {names} is missing at column {column + 1}")
        self.take()
        return found

    def value(self) -> bytes | None:
        """The value that begins here, and pass over it; as far as it goes where the file ends.

        Returns:
            None for one over `MAX_ROW_BYTES`.

        Raises:
            StopReadingError: It is nested too deeply.
        """
        return self._through_value(keep=True)

    def skip(self) -> None:
        """Pass over a value of any length."""
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
            # The bytes at hand end before the value does.
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
        """Let go of what was passed and read on; False at the end."""
        held = self._buffer[self._at :]
        # As much as is held, so that a long value is not copied for each of its chunks.
        read = self._stream.read(max(CHUNK_BYTES, len(held)))
        self._buffer, self._at = held + read, 0
        return bool(read)

    def _pass(self, to: int) -> None:
        """Go to a place in the bytes at hand, and count the lines on the way."""
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
    """Finds where a value ends, as its bytes come."""

    def __init__(self, opening: bytes) -> None:
        self.depth = 0
        self._is_scalar = opening not in (b'"', b"[", b"{")
        self._in_string = False

    def on(self, buffer: bytes, at: int) -> tuple[int, bool]:
        """Go on through the bytes at hand.

        Args:
            buffer: These bytes.
            at: Where in them to go on.

        Returns:
            How far it got, and whether the value ends there.
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
    """Where the string ends that goes on at a place: its quote, or as far as the bytes tell."""
    quote = buffer.find(b'"', at)
    stop = quote if quote >= 0 else len(buffer)
    # Most strings hold no backslash, and are done with a memchr.
    if buffer.find(b"\\", at, stop) < 0:
        return stop
    found = _IN_STRING.match(buffer, at)
    return found.end() if found else at
