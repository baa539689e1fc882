"""What a reader of files yields: rows with their line numbers, and what is wrong at a line."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from telltune.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

__all__ = [
    "BOM",
    "MAX_ROW_BYTES",
    "TOO_DEEP",
    "TOO_LONG",
    "Fault",
    "Number",
    "Place",
    "Row",
    "StopReadingError",
    "lines_of",
    "not_json",
    "parse_row",
    "refuse_utf16",
    "utf8_text",
]

MAX_ROW_BYTES = 16 * 2**20
"""Four million tokens: more than any context holds, and what JSON of it may take in memory is
some 400 MiB."""

TOO_LONG = f"the row is over {MAX_ROW_BYTES // 2**20} MiB: split it into shorter examples"
TOO_DEEP = "the JSON is nested too deeply: flatten the row"

BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """One row of a data file: where it begins, counted from 1, and its values by key."""

    line: int
    values: Mapping[str, object]


class Number(str):
    """A number as the file spells it. It is read as text, so that 1.50 stays 1.50."""

    __slots__ = ()


class Fault(NamedTuple):
    """What is wrong at a line: a `Problem` that does not know its file yet."""

    line: int
    reason: str


class StopReadingError(Exception):
    """Nothing after this place can be trusted."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.fault = Fault(line, reason)


class Place(NamedTuple):
    """Where in a file something begins."""

    line: int
    """From 1."""
    byte: int = 0
    """Bytes before it on its line."""
    column: int = 0
    """Characters before it on its line."""


def refuse_utf16(start: bytes) -> None:
    """Say of a file's first bytes what they are, rather than what they are not.

    Raises:
        StopReadingError: They are the mark of UTF-16.
    """
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise StopReadingError(1, "the file is UTF-16: save it as UTF-8")


def lines_of(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers, from 1; None stands for one over `MAX_ROW_BYTES`.

    Raises:
        StopReadingError: The file is UTF-16.
    """
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if number == 1:
            refuse_utf16(line)
            line = line.removeprefix(BOM)
        if len(line) <= MAX_ROW_BYTES:
            yield number, line
            continue
        while not line.endswith(b"\n") and line:
            line = stream.readline(MAX_ROW_BYTES)
        yield number, None


def utf8_text(raw: bytes, place: Place) -> str:
    """Decode a part of a file.

    Args:
        raw: The part.
        place: Where it begins.

    Raises:
        StopReadingError: It is not UTF-8; names the line, the byte and its value.
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


def parse_row(raw: bytes, place: Place) -> Row | Fault:
    """Read the JSON of one row.

    Args:
        raw: As it stands in the file.
        place: Where it begins.
    """
    try:
        value = _DECODER.decode(utf8_text(raw, place))
    except StopReadingError as stop:
        return stop.fault
    except json.JSONDecodeError as error:
        return not_json(error, place)
    except _TwiceError as error:
        return Fault(place.line, f"the key `{shown(str(error))}` stands twice: take one out")
    except RecursionError:
        return Fault(place.line, TOO_DEEP)
    if isinstance(value, dict):
        return Row(place.line, value)
    return Fault(
        place.line, 'the row is not a JSON object: write {"prompt": ..., "completion": ...}'
    )


def not_json(error: json.JSONDecodeError, place: Place) -> Fault:
    """What the decoder found, where it stands in the file."""
    column = error.colno + (place.column if error.lineno == 1 else 0)
    return Fault(place.line + error.lineno - 1, f"not JSON: {error.msg} at column {column}")


class _TwiceError(Exception):
    """A key stands twice in one object; the message is the key."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object. Of a key that comes again Python's own decoder keeps the last, in silence."""
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _TwiceError(counts.most_common(1)[0][0])
    return values


# NaN is how pandas writes "missing".
_DECODER = json.JSONDecoder(
    parse_int=Number,
    parse_float=Number,
    parse_constant=lambda name: None if name == "NaN" else Number(name),
    object_pairs_hook=_object,
)
