"""Readers of file formats, from the bytes of one file to rows with line numbers.

An error in one row yields a `Problem`, and reading continues. An error that affects the rest of a
file (a damaged gzip stream, CSV that is not UTF-8) yields a final `Problem`. A file that cannot be
opened raises `DataError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

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
from telltune.errors import DataError, RecipeError
from telltune.plugins import load_plugins

if TYPE_CHECKING:
    from telltune.recipe import Quoting

Rows = Iterator[ParsedRow | Fault]

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def read_rows(path: Path, quoting: Quoting = "auto") -> Iterator[ParsedRow | Problem]:
    """Read one data file, one row at a time.

    Yields:
        Rows in file order, and a `Problem` for each invalid row.

    Raises:
        DataError: The file cannot be opened, is not a regular file or has no known suffix.
    """
    suffix = format_of(path)
    if suffix is None:
        raise DataError(
            f"{path} has an unsupported format: convert it to one of "
            f"{', '.join(known_suffixes())} (text formats may end in .gz)."
        )
    for row in _guarded(path, suffix, quoting):
        yield row if isinstance(row, ParsedRow) else Problem(str(path), row.line, row.reason)


def known_suffixes() -> tuple[str, ...]:
    """Return the suffixes of all formats, those of plugins last."""
    load_plugins()
    return (*_TEXT, *_BY_PATH)


def register_format(suffix: str, reader: Callable[[Path], Iterable[Mapping[str, object]]]) -> None:
    """Add a file format from a plugin.

    Args:
        suffix: Suffix of its files, such as ".xlsx".
        reader: Takes a path and yields the rows of the file by key. If it raises an error, the
            rows behind the error are reported as unreadable.

    Raises:
        RecipeError: The suffix has a format already, or is not a suffix.
    """
    if not re.fullmatch(r"\.[a-z0-9]+", suffix):
        raise RecipeError(f"`{suffix}` is not a suffix in lower case, such as `.xlsx`.")
    if suffix in (*_TEXT, *_BY_PATH):
        raise RecipeError(f"files that end in `{suffix}` have a format already.")

    def read(path: Path) -> Rows:
        line = 0
        try:
            for line, values in enumerate(reader(path), start=1):
                yield ParsedRow(line, values)
        except OSError:
            raise
        except Exception as error:
            yield Fault(line + 1, f"cannot be read ({type(error).__name__}: {error})")

    _BY_PATH[suffix] = read


def format_of(path: Path) -> str | None:
    """Return the suffix in `known_suffixes` of a path, without `.gz`, or None if unknown."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        return suffixes[-2] if len(suffixes) > 1 and suffixes[-2] in _TEXT else None
    return suffixes[-1] if suffixes and suffixes[-1] in known_suffixes() else None


def stem_of(path: Path) -> str:
    """Return the file name without suffixes and shard number: `tickets` for `tickets.jsonl.gz`."""
    stem = Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem
    stem = _SHARD.sub("", stem)
    # `datasets` saves every data set as `data`, in a folder with the name of the data set.
    return path.parent.name if (stem, path.suffix) == ("data", ".arrow") else stem


def _guarded(path: Path, suffix: str, quoting: Quoting) -> Rows:
    try:
        if suffix in _BY_PATH:
            check_regular(path)
            yield from _BY_PATH[suffix](path)
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
_BY_PATH: dict[str, Callable[[Path], Rows]] = {".parquet": parquet_rows, ".arrow": arrow_rows}
_TEXT = (*_JSON, *DELIMITED)
