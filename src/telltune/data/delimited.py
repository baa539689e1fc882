"""Rows of delimited text: CSV, TSV, and the variants that spreadsheets write."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from telltune.data.parsed_row import (
    MAX_ROW_BYTES,
    TOO_LONG,
    Fault,
    ParsedRow,
    Place,
    StopReadingError,
    lines_of,
    utf8_text,
)
from telltune.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from telltune.recipe import Quoting

# A first line written by Excel that names the separator: `sep=;`.
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\r\n])"?[\r\n]*', re.IGNORECASE)
_QUOTED = re.compile(r'"[^"]*"?')
# Excel writes `;` in locales whose decimal sign is the comma.
_SEPARATORS_OF_CSV = ",;\t|"
_HEAD_BYTES = 2**16
"""Number of bytes of rows that separators are compared on."""

_USE_NONE = "if quotes are ordinary characters in this file, set `quoting: none`"
_BARE_RETURN = "the line contains a bare carriage return: end lines with a line feed"


def delimited_rows(
    stream: BinaryIO, *, separator: str | None, quoting: Quoting
) -> Iterator[ParsedRow | Fault]:
    """Yield the rows of a file whose first line names the columns; None detects the separator.

    Raises:
        StopReadingError: The header cannot be read, or the rest of the file is unreliable.
    """
    told = _SEPARATOR_LINE.fullmatch(_decoded(stream.readline(MAX_ROW_BYTES)))
    if not told:
        stream.seek(0)
    lines_of_head = iter(partial(stream.readline, MAX_ROW_BYTES), b"")
    head = _decoded(next(filter(bytes.strip, lines_of_head), b""))
    bare = head if quoting == "none" else _QUOTED.sub("", head)
    if told:
        separator = told[1]
    elif separator is None:
        marks = [mark for mark in _SEPARATORS_OF_CSV if mark in bare]
        if len(marks) > 1:
            head += _decoded(stream.read(_HEAD_BYTES))
        separator = max(marks, key=lambda mark: _fit(head, mark, quoting), default=",")
    stream.seek(0)
    spaced = 0 < bare.count(separator) == bare.count(f"{separator} ") and separator != " "
    record = _Record()
    lines = _lines_into(record, stream)
    if told:
        next(lines)
    records = _records(lines, record, separator, quoting, spaced=spaced)
    header = next(records, None)
    if header is None:
        return
    if isinstance(header, Fault):
        raise StopReadingError(header.line, f"the header is unreadable: {header.reason}")
    columns = _Columns(header, record.line)
    for cells in records:
        yield cells if isinstance(cells, Fault) else columns.row(record.line, cells)


def _decoded(line: bytes) -> str:
    return line.decode("utf-8-sig", errors="replace")


def _fit(head: str, separator: str, quoting: Quoting) -> tuple[float, int]:
    """Return the share of the first rows that fit the header, and the number of its cells."""
    reader = csv.reader(
        io.StringIO(head),
        delimiter=separator,
        quoting=csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL,
    )
    try:
        records = list(reader)
    except csv.Error:
        return 0, 0
    header, *rows = [cells for cells in records if any(cells)] or [[]]
    width = len(header)
    fitting = [
        len(cells) >= width and not any(cells[width:])
        for cells in rows[:-1] or rows  # the last one may be cut short
    ]
    return sum(fitting) / max(len(fitting), 1), width


class _Columns:
    """The columns that a header names.

    Args:
        header: Cells of the header. A column without a name is called `column 3`, by its number.
        line: First line of the header.

    Raises:
        StopReadingError: A name occurs twice or has NUL bytes (as in UTF-16), or there is no name.
    """

    def __init__(self, header: list[str], line: int) -> None:
        given = [name.strip() for name in header]
        self._header = list(map(_as_name, header))
        self._unnamed = {f"column {i}" for i, name in enumerate(given, start=1) if not name}
        self._names = [name or f"column {i}" for i, name in enumerate(given, start=1)]
        # Spreadsheets write separators at line ends for columns that are no longer filled.
        self._needed = max((i for i, name in enumerate(given, start=1) if name), default=0)
        if not self._needed:
            raise StopReadingError(line, "the header has no column names")
        if any("\0" in name for name in header):
            raise StopReadingError(line, "the header contains NUL bytes: save the file as UTF-8")
        if len(set(self._names)) < len(self._names):
            twice = next(n for i, n in enumerate(self._names) if n in self._names[:i])
            raise StopReadingError(
                line, f"the header contains `{shown(twice)}` twice: rename one column"
            )

    def row(self, line: int, cells: list[str]) -> ParsedRow | Fault:
        """Return the row at a line, without empty cells outside of named columns."""
        if len(cells) > 1 and self._is_header(cells):
            return Fault(line, "the line repeats the header: delete it")
        missing = len(cells) < self._needed
        if missing or any(cell.strip() for cell in cells[len(self._names) :]):
            hint = "write one per column" if missing else "quote cells that contain the separator"
            return Fault(line, f"{len(cells)} cells, but the header has {self._needed}: {hint}")
        values = dict(zip(self._names, cells, strict=False))
        for name in self._unnamed:
            if not values.get(name, "").strip():
                values.pop(name, None)
        return ParsedRow(line, values)

    def _is_header(self, cells: list[str]) -> bool:
        """Return whether a row is the header of a joined file."""
        names = self._header[: self._needed]
        return (
            len(cells) >= len(names)
            and all(_as_name(cell) == name for cell, name in zip(cells, names, strict=False))
            and not any(map(str.strip, cells[len(names) :]))
        )


def _as_name(cell: str) -> str:
    """Return a name to compare, without case, spaces, quotes and the byte order mark of a file."""
    return cell.strip().strip('\ufeff"').strip().casefold()


@dataclass
class _Record:
    """Unparsed lines of one record."""

    line: int = 1
    """Number of the first line."""
    lines: list[str] = field(default_factory=list)
    size: int = 0
    """Total size in bytes."""

    def clear(self) -> None:
        """Start the next record."""
        self.line += len(self.lines)
        self.lines.clear()
        self.size = 0

    @property
    def is_blank(self) -> bool:
        """True if the record is empty, without even an empty quoted cell."""
        return not any(line.strip(" \r\n") for line in self.lines)

    @property
    def last(self) -> int:
        """Number of the last line."""
        return self.line + len(self.lines) - 1


def _lines_into(record: _Record, stream: BinaryIO) -> Iterator[str]:
    """Yield decoded lines and add each to the current record, whose size is bounded."""
    for number, line in lines_of(stream):
        record.size += MAX_ROW_BYTES if line is None else len(line)
        if line is None or record.size > MAX_ROW_BYTES:
            raise StopReadingError(record.line, f"{TOO_LONG}, or close an open quote")
        text = utf8_text(line, Place(number))
        record.lines.append(text)
        yield text


def _records(
    lines: Iterator[str], record: _Record, separator: str, quoting: Quoting, *, spaced: bool
) -> Iterator[list[str] | Fault]:
    """Yield the cells of each record; `auto` refuses quoted cells whose lines look like rows.

    With `spaced`, spaces after separators are not part of the cells.
    """
    # The csv module's limit is 128 KiB per field and can only be changed for the whole process.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
    reader = csv.reader(
        lines,
        delimiter=separator,
        quoting=csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL,
        skipinitialspace=spaced,
        strict=True,
    )
    width = 0
    quote_after_space = re.compile(rf'(?:^|{re.escape(separator)}) +"')
    while True:
        record.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Fault(record.line, _reason(error, record))
            continue
        if len(cells) < 2 and record.is_blank:
            continue
        width = width or len(cells)
        if quoting == "auto" and _hold_rows(record.lines, separator, width, spaced=spaced):
            yield Fault(
                record.line,
                f"a quoted cell continues to line {record.last}, and its lines look like rows of "
                f"their own: {_USE_NONE}; if it is one cell, set `quoting: minimal`",
            )
        elif (
            quoting != "none"
            and any(map(quote_after_space.search, record.lines))
            and _quotes_after_spaces(record.lines, separator, cells)
        ):
            yield Fault(
                record.line,
                "a quote follows a space after the separator, so it does not enclose the cell: "
                f"delete the space; {_USE_NONE}",
            )
        else:
            yield cells


def _quotes_after_spaces(lines: list[str], separator: str, cells: list[str]) -> bool:
    """Return whether a record has other cells if quotes after spaces enclose cells, too."""
    try:
        others = next(csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True))
    except (csv.Error, ValueError):  # the quotes enclose no cell; the separator is a space
        return False
    return [cell.lstrip(" ") for cell in cells] != [cell.lstrip(" ") for cell in others]


def _reason(error: csv.Error, record: _Record) -> str:
    if "new-line character" in str(error):
        return _BARE_RETURN
    lines = f" (lines {record.line} to {record.last})" if record.last > record.line else ""
    return f"the row{lines} has invalid quoting ({error}): {_USE_NONE}"


def _hold_rows(lines: list[str], separator: str, width: int, *, spaced: bool) -> bool:
    """Return whether most lines of one record look like separate records.

    A stray quote can merge several rows into one record. Such a record cannot be distinguished for
    certain from a cell with several lines. But in few real cells do most lines have exactly as many
    separators as a row.

    A row has `width` cells, at least two of them with text. Without `spaced`, no space follows the
    separators in this file, so that such a space indicates prose.
    """
    if len(lines) < 2 or width < 2:
        return False
    like = 0
    for line in lines:
        cells = [cell.rstrip("\r\n") for cell in line.split(separator)]
        prose = separator != "\t" and not spaced and any(c.startswith(" ") for c in cells[1:])
        like += len(cells) == width and sum(map(bool, map(str.strip, cells))) > 1 and not prose
    return 2 * like > len(lines)
