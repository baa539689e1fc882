"""File formats: from the bytes of one file to rows with line numbers.

What ails one row is a `Problem`, and reading goes on. What ails the rest of a file (a damaged gzip
stream, CSV that is not UTF-8) is one last `Problem`. A file that cannot be opened at all raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from telltune.data.delimited import delimited_rows
from telltune.data.examples import Problem
from telltune.data.json_document import json_rows
from telltune.data.opening import check_regular, open_data
from telltune.data.parquet import arrow_rows, parquet_rows
from telltune.data.row import (
    TOO_LONG,
    Fault,
    Place,
    Row,
    StopReadingError,
    lines_of,
    parse_row,
)
from telltune.errors import DataError

if TYPE_CHECKING:
    from typing import BinaryIO

    from telltune.recipe import Quoting

__all__ = ["DELIMITED", "SUFFIXES", "Row", "format_of", "read_rows", "stem_of"]

Rows = Iterator[Row | Fault]

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def read_rows(path: Path, quoting: Quoting = "auto") -> Iterator[Row | Problem]:
    """Read one data file, a row at a time.

    Args:
        path: A file with one of `SUFFIXES`; text formats may end in `.gz`.
        quoting: What quotes mean in `DELIMITED` formats; see `DataSpec.quoting`.

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
    for row in _guarded(path, suffix, quoting):
        yield row if isinstance(row, Row) else Problem(str(path), row.line, row.reason)


def format_of(path: Path) -> str | None:
    """The suffix in `SUFFIXES` that says how to read `path`, without `.gz`; None if unknown."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        return suffixes[-2] if len(suffixes) > 1 and suffixes[-2] in _TEXT else None
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def stem_of(path: Path) -> str:
    """The name without its format: `tickets` for `tickets.jsonl.gz`, and for one of its shards."""
    stem = Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem
    stem = _SHARD.sub("", stem)
    # So `datasets` calls all that it saves, in a folder with the name of the data set.
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
"""The separator by suffix; None where the first line tells it."""
_COLUMNAR: dict[str, Callable[[Path], Rows]] = {".parquet": parquet_rows, ".arrow": arrow_rows}
_TEXT = (*_JSON, *DELIMITED)
SUFFIXES = (*_TEXT, *_COLUMNAR)
