"""File formats: from the bytes of one file to rows with line numbers.

What ails one row is a `Problem`, and reading goes on. What ails the rest of a file (a damaged gzip
stream, CSV that is not UTF-8) is one last `Problem`. A file that cannot be opened at all raises.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from telltune.data.examples import Problem
from telltune.errors import DataError

if TYPE_CHECKING:
    from io import BufferedIOBase

__all__ = ["SUFFIXES", "Row", "format_of", "read_rows", "stem_of"]

MAX_LINE_BYTES = 64 * 2**20
MAX_DOCUMENT_BYTES = 2**30
PARQUET_BATCH = 1024


class Row(NamedTuple):
    """One row of a data file: where it begins, counted from 1, and its values by key."""

    line: int
    values: Mapping[str, object]


class _Fault(NamedTuple):
    """What is wrong at a line: a `Problem` that does not know its file yet."""

    line: int
    reason: str


class _StopReadingError(Exception):
    """Nothing after this place can be trusted."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.fault = _Fault(line, reason)


Lines = Iterator[tuple[int, bytes | None]]
Rows = Iterator[Row | _Fault]

# Numbers keep the spelling that the user gave them (1.50 stays 1.50), since they end up as text.
# NaN is how pandas writes "missing".
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=lambda _: None)
_BETWEEN_VALUES = re.compile(r"[ \t\n\r,:]*")
_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


def read_rows(path: Path) -> Iterator[Row | Problem]:
    """Read one data file, a row at a time.

    Args:
        path: A file with one of `SUFFIXES`; text formats may end in `.gz`.

    Yields:
        Rows in the file's order, and a `Problem` for each that is no row.

    Raises:
        DataError: The file cannot be opened, is not a regular file or has no known suffix.
    """
    suffix = format_of(path)
    if suffix is None:
        raise DataError(
            f"{path} is not a data file that telltune reads: convert it to one of "
            f"{', '.join(SUFFIXES)} (text formats may end in .gz)."
        )
    for row in _guarded(path, suffix):
        yield row if isinstance(row, Row) else Problem(str(path), row.line, row.reason)


def format_of(path: Path) -> str | None:
    """The suffix in `SUFFIXES` that says how to read `path`, without `.gz`; None if unknown."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        return suffixes[-2] if len(suffixes) > 1 and suffixes[-2] in _TEXT_FORMATS else None
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def stem_of(path: Path) -> str:
    """The name without its format: `tickets` for `tickets.jsonl.gz`."""
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def _guarded(path: Path, suffix: str) -> Rows:
    try:
        # Opening a FIFO would wait for a writer for ever, and /dev/zero never ends.
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path} is not a regular file: give a file with data in it.")
        if suffix == ".parquet":
            yield from _parquet_rows(path)
            return
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            yield from _TEXT_FORMATS[suffix](stream)
    except _StopReadingError as stop:
        yield stop.fault
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        yield _Fault(1, f"the gzip stream is damaged ({error}): compress the file again")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _lines(stream: BufferedIOBase) -> Lines:
    """Lines with their numbers; None stands for one over `MAX_LINE_BYTES`, which is skipped."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            _refuse_utf16(line)
            line = line.removeprefix(_BOM)
        if len(line) <= MAX_LINE_BYTES:
            yield number, line
            continue
        while not line.endswith(b"\n") and line:
            line = stream.readline(MAX_LINE_BYTES)
        yield number, None


def _refuse_utf16(start: bytes) -> None:
    if start.startswith(_UTF16_BOMS):
        raise _StopReadingError(1, "the file is UTF-16: save it as UTF-8")


def _not_utf8(first_line: int, error: UnicodeDecodeError) -> _Fault:
    before = error.object[: error.start]
    byte = error.start - before.rfind(b"\n")
    return _Fault(
        first_line + before.count(b"\n"),
        f"not UTF-8: 0x{error.object[error.start]:02x} at byte {byte} of the line; save the file "
        "as UTF-8",
    )


_TOO_LONG = f"the line is over {MAX_LINE_BYTES // 2**20} MiB: split it into shorter examples"
_TOO_DEEP = "the JSON is nested too deeply: flatten the row"


def _jsonl_rows(stream: BufferedIOBase) -> Rows:
    for number, line in _lines(stream):
        if line is None:
            yield _Fault(number, _TOO_LONG)
        elif line.strip():
            yield _row_of_line(number, line)


def _row_of_line(number: int, line: bytes) -> Row | _Fault:
    try:
        return _as_row(number, _DECODER.decode(line.decode()))
    except UnicodeDecodeError as error:
        return _not_utf8(number, error)
    except json.JSONDecodeError as error:
        return _Fault(number, f"not JSON: {error.msg} at column {error.colno}")
    except RecursionError:
        return _Fault(number, _TOO_DEEP)


def _as_row(line: int, value: object) -> Row | _Fault:
    if isinstance(value, dict):
        return Row(line, value)
    return _Fault(line, 'the row is not a JSON object: write {"prompt": ..., "completion": ...}')


def _json_rows(stream: BufferedIOBase) -> Rows:
    text = _document(stream)
    if not text.strip():
        return
    try:
        # Decoding the whole first means that what walks the text below can trust its syntax.
        if isinstance(_DECODER.decode(text), dict):
            arrays = list(_arrays_in_object(text))
        else:
            arrays = [_next_value(text, 0)]
        if len(arrays) != 1 or text[arrays[0]] != "[":
            raise _StopReadingError(
                1, "the document is neither an array of objects nor an object with one list in it"
            )
        yield from _elements(text, arrays[0])
    except json.JSONDecodeError as error:
        hint = "; name it .jsonl if it holds an object a line" if error.msg == "Extra data" else ""
        raise _StopReadingError(
            error.lineno, f"not JSON: {error.msg} at column {error.colno}{hint}"
        ) from error
    except RecursionError as error:
        raise _StopReadingError(1, _TOO_DEEP) from error


def _document(stream: BufferedIOBase) -> str:
    raw = stream.read(MAX_DOCUMENT_BYTES + 1)
    _refuse_utf16(raw)
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise _StopReadingError(
            1, "the JSON document is over 1 GiB: convert it to .jsonl, which is read line by line"
        )
    try:
        return raw.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        raise _StopReadingError(*_not_utf8(1, error)) from error


def _next_value(text: str, position: int) -> int:
    match = _BETWEEN_VALUES.match(text, position)
    return match.end() if match else position


def _arrays_in_object(text: str) -> Iterator[int]:
    """Where the lists among the values of the document's outermost object open."""
    position = _next_value(text, 0) + 1
    while text[begin := _next_value(text, position)] != "}":
        _, position = _DECODER.raw_decode(text, begin)
        begin = _next_value(text, position)
        _, position = _DECODER.raw_decode(text, begin)
        if text[begin] == "[":
            yield begin


def _elements(text: str, opening: int) -> Rows:
    """The elements of the array that opens at `opening`, each with the line it begins on."""
    position, line = opening + 1, 1 + text.count("\n", 0, opening)
    while text[begin := _next_value(text, position)] != "]":
        line += text.count("\n", position, begin)
        value, position = _DECODER.raw_decode(text, begin)
        yield _as_row(line, value)
        line += text.count("\n", begin, position)


def _separated_rows(stream: BufferedIOBase, separator: str) -> Rows:
    records = _records(stream, separator)
    header = next(records, None)
    if header is None:
        return
    if isinstance(header, _Fault):
        raise _StopReadingError(header.line, f"the header is unreadable, {header.reason}")
    names = [name.strip() for name in header[1]]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise _StopReadingError(header[0], f"the header names `{twice[0]}` twice: rename a column")
    for record in records:
        if isinstance(record, _Fault):
            yield record
        elif len(record[1]) != len(names):
            yield _Fault(
                record[0],
                f"{len(record[1])} cells where the header has {len(names)}: quote each cell that "
                "holds the separator",
            )
        else:
            yield Row(record[0], dict(zip(names, record[1], strict=True)))


def _records(stream: BufferedIOBase, separator: str) -> Iterator[tuple[int, list[str]] | _Fault]:
    # The csv module's own limit is 128 KiB a field, and it can only be raised for the process.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    lines = _decoded_lines(stream)
    first = next(lines, "")
    if separator == "," and "," not in first and ";" in first:
        separator = ";"  # what Excel writes where the comma is the decimal sign
    reader = csv.reader(itertools.chain([first], lines), delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _Fault(line, f"the row is quoted wrongly: {error}")
            continue
        if cells:
            yield line, cells


def _decoded_lines(stream: BufferedIOBase) -> Iterator[str]:
    for number, line in _lines(stream):
        if line is None:
            raise _StopReadingError(number, _TOO_LONG)
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise _StopReadingError(*_not_utf8(number, error)) from error


def _parquet_rows(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    line = 1
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=PARQUET_BATCH):
                for values in batch.to_pylist():
                    yield Row(line, values)
                    line += 1
    # Arrow raises OSError for damaged bytes too, and ValueError for values Python cannot hold.
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise _StopReadingError(line, f"the Parquet file is damaged: {reason}") from error


_TEXT_FORMATS: dict[str, Callable[[BufferedIOBase], Rows]] = {
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".json": _json_rows,
    ".csv": partial(_separated_rows, separator=","),
    ".tsv": partial(_separated_rows, separator="\t"),
}
SUFFIXES = (*_TEXT_FORMATS, ".parquet")
