"""Readers of file formats, from the bytes of one file to rows with line numbers.

An error in one row yields a `Problem`, and reading continues. An error that affects the rest of a
file (a damaged gzip stream, CSV that is not UTF-8) yields a final `Problem`. A file that cannot be
opened raises `DataError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from telltune.data.delimited import delimited_rows
from telltune.data.examples import Problem
from telltune.data.json_document import json_rows
from telltune.data.parquet import arrow_rows, parquet_rows
from telltune.data.parsed_row import (
    TOO_LONG,
    Fault,
    ParsedRow,
    Place,
    StopReadingError,
    lines_of,
    parse_row,
)
from telltune.data.safe_open import check_regular, open_data
from telltune.errors import DataError

if TYPE_CHECKING:
    from typing import BinaryIO

    from telltune.recipe import Quoting

__all__ = ["DELIMITED", "SUFFIXES", "ParsedRow", "format_of", "read_rows", "stem_of"]

Rows = Iterator[ParsedRow | Fault]

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def read_rows(path: Path, quoting: Quoting = "auto") -> Iterator[ParsedRow | Problem]:
    """Read one data file, one row at a time.

    Args:
        path: File with one of `SUFFIXES`; text formats may end in `.gz`.
        quoting: Meaning of quotes in `DELIMITED` formats; see `DataSpec.quoting`.

    Yields:
        Rows in file order, and a `Problem` for each invalid row.

    Raises:
        DataError: The file cannot be opened, is not a regular file or has no known suffix.
    """
    suffix = format_of(path)
    if suffix is None:
        raise DataError(
            f"{path} has an unsupported format: convert it to one of "
            f"{', '.join(SUFFIXES)} (text formats may end in .gz)."
        )
    for row in _guarded(path, suffix, quoting):
        yield row if isinstance(row, ParsedRow) else Problem(str(path), row.line, row.reason)


def format_of(path: Path) -> str | None:
    """Return the suffix in `SUFFIXES` of a path, without `.gz`, or None if unknown."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        return suffixes[-2] if len(suffixes) > 1 and suffixes[-2] in _TEXT else None
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def stem_of(path: Path) -> str:
    """Return the file name without suffixes and shard number: `tickets` for `tickets.jsonl.gz`."""
    stem = Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem
    stem = _SHARD.sub("", stem)
    # `datasets` saves every data set as `data`, in a folder with the name of the data set.
    return path.parent.name if (stem, path.suffix) == ("data", ".arrow") else stem


def _guarded(path: Path, suffix: str, quoting: Quoting) -> Rows:
    try:
        if suffix in _COLUMNAR:
            check_regular(path)
            yield from _COLUMNAR[suffix](path)
            return
        with open_data(path) as stream:
            if suffix in DELIMITED:
                yield from delimited_rows(stream, separator=DELIMITED[suffix], quoting=quoting)
            else:
                yield from _JSON[suffix](stream)
    except StopReadingError as stop:
        yield stop.fault
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _jsonl_rows(stream: BinaryIO) -> Rows:
    for number, line in lines_of(stream):
        if line is None:
            yield Fault(number, TOO_LONG)
        elif line.strip():
            yield parse_row(line.rstrip(b"\r\n"), Place(number))


_JSON: dict[str, Callable[[BinaryIO], Rows]] = {
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".json": json_rows,
}
DELIMITED = {".csv": None, ".tsv": "\t"}
"""Separator by suffix. None means that it is detected from the first line."""
_COLUMNAR: dict[str, Callable[[Path], Rows]] = {".parquet": parquet_rows, ".arrow": arrow_rows}
_TEXT = (*_JSON, *DELIMITED)
SUFFIXES = (*_TEXT, *_COLUMNAR)
