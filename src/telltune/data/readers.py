"""File formats: from the bytes of one file to rows with line numbers.

What ails one row is a `Problem`, and reading goes on. What ails the rest of a file (a damaged gzip
stream, CSV that is not UTF-8) is one last `Problem`. A file that cannot be opened at all raises.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from telltune.data.examples import Problem
from telltune.data.json_document import json_rows
from telltune.data.opening import check_regular, open_data
from telltune.data.parquet import parquet_rows
from telltune.data.row import (
    BOM,
    MAX_ROW_BYTES,
    TOO_LONG,
    Fault,
    Place,
    Row,
    StopReadingError,
    parse_row,
    refuse_utf16,
    utf8_text,
)
from telltune.errors import DataError, shown

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["SUFFIXES", "Row", "format_of", "read_rows", "stem_of"]

Lines = Iterator[tuple[int, bytes | None]]
Rows = Iterator[Row | Fault]


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
        if suffix == ".parquet":
            check_regular(path)
            yield from parquet_rows(path)
            return
        with open_data(path) as stream:
            yield from _TEXT_FORMATS[suffix](stream)
    except StopReadingError as stop:
        yield stop.fault
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _lines(stream: BinaryIO) -> Lines:
    """Lines with their numbers; None stands for one over `MAX_ROW_BYTES`, which is skipped."""
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


def _jsonl_rows(stream: BinaryIO) -> Rows:
    for number, line in _lines(stream):
        if line is None:
            yield Fault(number, TOO_LONG)
        elif line.strip():
            yield parse_row(line.rstrip(b"\r\n"), Place(number))


def _separated_rows(stream: BinaryIO, separator: str) -> Rows:
    records = _records(stream, separator)
    header = next(records, None)
    if header is None:
        return
    if isinstance(header, Fault):
        raise StopReadingError(header.line, f"the header is unreadable, {header.reason}")
    names = [name.strip() for name in header[1]]
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise StopReadingError(
            header[0], f"the header names `{shown(twice)}` twice: rename a column"
        )
    for record in records:
        if isinstance(record, Fault):
            yield record
        elif len(record[1]) != len(names):
            yield Fault(
                record[0],
                f"{len(record[1])} cells where the header has {len(names)}: quote each cell that "
                "holds the separator",
            )
        else:
            yield Row(record[0], dict(zip(names, record[1], strict=True)))


def _records(stream: BinaryIO, separator: str) -> Iterator[tuple[int, list[str]] | Fault]:
    # The csv module's own limit is 128 KiB a field, and it can only be raised for the process.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
    record = _Record()
    lines = _lines_of(record, stream)
    first = next(lines, "")
    if separator == "," and "," not in first and ";" in first:
        separator = ";"  # what Excel writes where the comma is the decimal sign
    reader = csv.reader(itertools.chain([first], lines), delimiter=separator, strict=True)
    while True:
        record.line, record.size = reader.line_num + 1, 0
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Fault(record.line, f"the row is quoted wrongly: {error}")
            continue
        if cells:
            yield record.line, cells


@dataclass
class _Record:
    """A record that is being read: its first line, and the bytes of all that its quotes span."""

    line: int = 1
    size: int = 0


def _lines_of(record: _Record, stream: BinaryIO) -> Iterator[str]:
    """Decoded lines, of which a record takes many, but not without bound."""
    for number, line in _lines(stream):
        record.size += MAX_ROW_BYTES if line is None else len(line)
        if line is None or record.size > MAX_ROW_BYTES:
            raise StopReadingError(record.line, f"{TOO_LONG}, or close a quote that stays open")
        yield utf8_text(line, Place(number))


_TEXT_FORMATS: dict[str, Callable[[BinaryIO], Rows]] = {
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".json": json_rows,
    ".csv": partial(_separated_rows, separator=","),
    ".tsv": partial(_separated_rows, separator="\t"),
}
SUFFIXES = (*_TEXT_FORMATS, ".parquet")
