"""Results of file readers: rows with line numbers, and faults at a line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

from telltune.errors import shown

MAX_ROW_BYTES = 16 * 2**20
"""Maximum bytes of a row: about four million tokens, longer than any context. As parsed JSON it
takes up to about 400 MiB of memory."""

TOO_LONG = f"the row is over {MAX_ROW_BYTES // 2**20} MiB: split it into shorter examples"
TOO_DEEP = "the JSON is nested too deeply: flatten the row"

BOM = b"\xef\xbb\xbf"


class ParsedRow(NamedTuple):
    """Row of a data file."""

    line: int
    """Number of its first line, from 1."""
    values: Mapping[str, object]
    """Values by key."""
    beside: tuple[str, ...] = ()
    """Keys with a value beside the list of rows, in a JSON document."""


class Number(str):
    """Number as written in the file. It is kept as text, so that 1.50 remains 1.50."""

    __slots__ = ()


class Fault(NamedTuple):
    """Error at a line: a `Problem` without the file name."""

    line: int
    reason: str


class StopReadingError(Exception):
    """Raised if nothing after a line can be read reliably."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.fault = Fault(line, reason)


class Place(NamedTuple):
    """Position in a file."""

    line: int
    """Line number, from 1."""
    byte: int = 0
    """Number of bytes before the position on its line."""
    column: int = 0
    """Number of characters before the position on its line."""


# First bytes of files that often have the suffix of a text format.
_NO_TEXT = {
    b"\xff\xfe": "UTF-16: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
    b"\x1f\x8b": "compressed: add .gz to its name",
    b"PK\x03\x04": "an Excel workbook or a ZIP archive: save it as CSV in UTF-8, or unpack it",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save it as CSV in UTF-8",
    b"PAR1\x15": "a Parquet file: let its name end in .parquet",
    b"ARROW1\0": "an Arrow file: let its name end in .arrow",
    b"(\xb5/\xfd": "compressed with Zstandard: unpack it",
}
LONGEST_MAGIC = max(map(len, _NO_TEXT))
"""Number of first bytes that `refuse_other_content` looks at."""


def refuse_other_content(start: bytes) -> None:
    """Refuse a file that is no UTF-8 text, with a more helpful message than invalid UTF-8.

    Raises:
        StopReadingError: The first bytes are those of UTF-16 or of another kind of file.
    """
    for magic, what in _NO_TEXT.items():
        if start.startswith(magic):
            raise StopReadingError(1, f"the file is {what}")


def lines_of(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield lines with their numbers from 1. A line over `MAX_ROW_BYTES` gives None.

    Raises:
        StopReadingError: The file is no UTF-8 text.
    """
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if number == 1:
            refuse_other_content(line)
            line = line.removeprefix(BOM)
        if len(line) <= MAX_ROW_BYTES:
            yield number, line
            continue
        while not line.endswith(b"\n") and line:
            line = stream.readline(MAX_ROW_BYTES)
        yield number, None


def utf8_text(raw: bytes, place: Place) -> str:
    """Decode a part of a file that starts at a place.

    Raises:
        StopReadingError: The bytes are not UTF-8; gives the line, the byte and its value.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        byte = error.start - before.rfind(b"\n") + (0 if b"\n" in before else place.byte)
        raise StopReadingError(
            place.line + before.count(b"\n"),
            f"not UTF-8: 0x{raw[error.start]:02x} at byte {byte} of the line; save the file as "
            "UTF-8",
        ) from None


def parse_row(raw: bytes, place: Place) -> ParsedRow | Fault:
    """Parse the JSON of one row that starts at a place."""
    try:
        value = _DECODER.decode(utf8_text(raw, place))
    except StopReadingError as stop:
        return stop.fault
    except json.JSONDecodeError as error:
        return not_json(error, place)
    except _TwiceError as error:
        return Fault(place.line, f"the key `{shown(str(error))}` occurs twice: remove one")
    except RecursionError:
        return Fault(place.line, TOO_DEEP)
    if isinstance(value, dict):
        return ParsedRow(place.line, value)
    advice = "; rename the file to .json if it is one list" if isinstance(value, list) else ""
    return Fault(
        place.line,
        f'the row is not a JSON object: write {{"prompt": ..., "completion": ...}}{advice}',
    )


def not_json(error: json.JSONDecodeError, place: Place) -> Fault:
    """Convert a decoder error to a fault at its position in the file."""
    column = error.colno + (place.column if error.lineno == 1 else 0)
    problem = error.msg.removesuffix(" at")
    return Fault(place.line + error.lineno - 1, f"not JSON: {problem} at column {column}")


class _TwiceError(Exception):
    """Raised for a key that occurs twice in one object. The message is the key."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build an object and refuse repeated keys, of which `json` silently keeps only the last."""
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _TwiceError(counts.most_common(1)[0][0])
    return values


# pandas writes missing values as NaN.
_DECODER = json.JSONDecoder(
    parse_int=Number,
    parse_float=Number,
    parse_constant=lambda name: None if name == "NaN" else Number(name),
    object_pairs_hook=_object,
)
