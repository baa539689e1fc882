"""Reader of a JSON document, one row at a time, for documents of any size.

A document is a list of objects, or an object with one list in it. Rows are split by their brackets
and quotes, and then decoded separately. An error in one row does not affect the others, and only
one row is in memory at a time.
"""

from __future__ import annotations

import io
import json
import mmap
import re
import shutil
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from telltune.data.parsed_row import (
    BOM,
    LONGEST_MAGIC,
    MAX_ROW_BYTES,
    TOO_DEEP,
    TOO_LONG,
    Fault,
    ParsedRow,
    Place,
    StopReadingError,
    not_json,
    parse_row,
    refuse_other_content,
    utf8_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 500
PIECE_BYTES = 2**20
"""Number of bytes whose lines are counted at once."""

_SPACE = re.compile(rb"[ \t\n\r]*+")
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_WHOLE_STRING = re.compile(_STRING, re.DOTALL)
# Matches whole strings and everything between them, up to a bracket or to a string without an end.
_FLAT = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+", re.DOTALL)
_AFTER_SCALAR = re.compile(rb'[ \t\n\r,:"\[\]{}]')
_BLANK = re.compile(rb'null|"[ \t]*"|\{[ \t\n\r]*\}')
_CONTINUATION = bytes(range(0x80, 0xC0))
"""UTF-8 continuation bytes, which do not start a character."""


def json_rows(stream: BinaryIO) -> Iterator[ParsedRow | Fault]:
    """Yield the rows of a document.

    Raises:
        StopReadingError: The document is not valid JSON, or has an unsupported layout.
    """
    with _bytes_of(stream) as data:
        document = _Document(data)
        opening = document.peek()
        if opening == b"[":
            yield from _elements(document)
            _check_end(document)
        elif opening == b"{":
            # The whole object is scanned before the first row, because a misnamed JSON Lines file
            # also starts with an object.
            document.at, document.place, beside = _only_list(document)
            for row in _elements(document):
                yield row._replace(beside=beside) if isinstance(row, ParsedRow) else row
        elif opening:
            _decode(document)
            _check_end(document)
            raise _neither()


@contextmanager
def _bytes_of(stream: BinaryIO) -> Iterator[mmap.mmap | bytes]:
    """Map a file, or the unpacked copy of a packed one, into memory."""
    with tempfile.TemporaryFile() as copy:
        try:
            number = stream.fileno()
        except io.UnsupportedOperation:
            shutil.copyfileobj(stream, copy)
            copy.flush()
            number = copy.fileno()
        try:
            mapped = mmap.mmap(number, 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file
            yield b""
            return
        with mapped:
            yield mapped


def _elements(document: _Document) -> Iterator[ParsedRow | Fault]:
    """Yield the elements of the list that starts at the current position."""
    document.expect(b"[")
    if document.peek() == b"]":
        document.expect(b"]")
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


def _only_list(document: _Document) -> tuple[int, Place, tuple[str, ...]]:
    """Return the start of the only list in the object that starts here, and the keys beside it.

    The start is a position and a place. Keys without a value are left out.

    Raises:
        StopReadingError: The object is not valid JSON, or does not have exactly one list.
    """
    lists = []
    beside: dict[str, None] = {}
    document.expect(b"{")
    if document.peek() == b"}":
        document.expect(b"}")
    else:
        while True:
            if document.peek() != b'"':
                raise document.error("a key in double quotes is missing")
            key = _decode(document)
            document.expect(b":")
            is_list = document.peek() == b"["
            if is_list:
                lists.append((document.at, document.place))
            value = document.value()
            if not is_list and not (value is not None and _BLANK.fullmatch(value)):
                beside[str(key)] = None
            if document.expect(b",", b"}") == b"}":
                break
    _check_end(document)
    if len(lists) != 1:
        raise _neither()
    return (*lists[0], tuple(beside))


def _check_end(document: _Document) -> None:
    if document.peek():
        raise document.error(
            "extra data", "; rename the file to .jsonl if it has one object per line"
        )


def _decode(document: _Document) -> object:
    """Consume and return a string or scalar; raise `StopReadingError` if it is no valid JSON."""
    place = document.place
    try:
        return json.loads(utf8_text(document.value() or b"", place), parse_int=str)
    except json.JSONDecodeError as error:
        raise StopReadingError(*not_json(error, place)) from None


def _neither() -> StopReadingError:
    return StopReadingError(
        1, "the document is neither an array of objects nor an object with one list in it"
    )


class _Document:
    """Position in the bytes of a document.

    Attributes:
        at: Number of bytes before the next byte.
        place: Line, byte and column of the next byte.
    """

    def __init__(self, data: mmap.mmap | bytes) -> None:
        refuse_other_content(data[:LONGEST_MAGIC])
        self._data = data
        self.at = len(BOM) if data[: len(BOM)] == BOM else 0
        self.place = Place(1)

    def peek(self) -> bytes:
        """Skip white space and return the next byte without consuming it; b"" at the end."""
        space = _SPACE.match(self._data, self.at)
        self._pass(space.end() if space else self.at)
        return self._data[self.at : self.at + 1]

    def expect(self, *wanted: bytes) -> bytes:
        """Consume and return the next non-space byte, which must be one of `wanted`.

        Raises:
            StopReadingError: The next byte is a different one.
        """
        found = self.peek()
        if found not in wanted:
            names = " or ".join(f"`{byte.decode()}`" for byte in wanted)
            raise self.error(f"{names} is missing")
        self._pass(self.at + 1)
        return found

    def value(self) -> bytes | None:
        """Consume and return the value that starts here. It is cut short if the file ends.

        Returns:
            Bytes of the value, or None if it exceeds `MAX_ROW_BYTES`.

        Raises:
            StopReadingError: The value is nested too deeply.
        """
        start, end = self.at, self._end()
        self._pass(end)
        return self._data[start:end] if end - start <= MAX_ROW_BYTES else None

    def error(self, problem: str, advice: str = "") -> StopReadingError:
        """Return an error at the next byte."""
        line, _, column = self.place
        return StopReadingError(line, f"not JSON: {problem} at column {column + 1}{advice}")

    def _end(self) -> int:
        """Return the end of the value that starts here, or of the document."""
        data, at, end = self._data, self.at, len(self._data)
        opening = data[at : at + 1]
        if opening not in (b'"', b"[", b"{"):
            after = _AFTER_SCALAR.search(data, at)
            return after.start() if after else end
        if opening == b'"':
            string = _WHOLE_STRING.match(data, at)
            return string.end() if string else end
        depth = 0
        while True:
            flat = _FLAT.match(data, at)
            at = flat.end() if flat else at
            mark = data[at : at + 1]
            if mark in (b"", b'"'):
                return end
            depth += 1 if mark in b"[{" else -1
            at += 1
            if depth > MAX_DEPTH:
                raise StopReadingError(self.place.line, TOO_DEEP)
            if not depth:
                return at

    def _pass(self, to: int) -> None:
        """Advance to a position, and count lines and characters on the way."""
        line, byte, column = self.place
        for start in range(self.at, to, PIECE_BYTES):
            piece = self._data[start : min(start + PIECE_BYTES, to)]
            newlines = piece.count(b"\n")
            if newlines:
                line, byte, column = line + newlines, 0, 0
                piece = piece[piece.rfind(b"\n") + 1 :]
            byte += len(piece)
            column += len(piece.translate(None, _CONTINUATION))
        self.at, self.place = to, Place(line, byte, column)
