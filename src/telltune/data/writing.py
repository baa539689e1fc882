"""Writer of rows to a file, in the format of its suffix."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from telltune.data.formats import DELIMITED
from telltune.data.parquet import as_spelled
from telltune.data.parsed_row import Number
from telltune.errors import StorageError
from telltune.storage import write_bytes

_FORMATS = (".jsonl", ".ndjson", ".json", *DELIMITED, ".parquet")
# Numbers in other formats can be invalid in JSON, such as 007 in CSV.
_SURROGATE = re.compile("[\ud800-\udfff]")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")


def check_writable(path: Path, read: Iterable[Path] = ()) -> None:
    """Refuse an output file that cannot be written or is read, before the rows are computed.

    Args:
        path: Output file.
        read: Files that the command reads; they need not exist.

    Raises:
        StorageError: Rows cannot be written in the format of the suffix, or see `check_unread`.
    """
    if path.suffix.lower() not in _FORMATS:
        raise StorageError(
            f"{path}: rows cannot be written in this format; use a file name that ends in one of "
            f"{', '.join(_FORMATS)}."
        )
    check_unread(path, read)


def check_unread(path: Path, read: Iterable[Path]) -> None:
    """Refuse an output file that is one of the files that are read, by any name or link.

    Raises:
        StorageError: The file would be replaced.
    """
    for other in read:
        with suppress(OSError):  # One of them does not exist, or cannot be looked at.
            if path.samefile(other):
                raise StorageError(
                    f"{path} is read by this command and would be replaced; choose another output "
                    "file."
                )


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows to a file atomically, in the format of its suffix.

    Numbers keep their spelling. Lists and objects are written as JSON in formats without them.
    Unpaired surrogates are escaped in JSON, and become U+FFFD in other formats.

    Raises:
        StorageError: The suffix is not supported, or the file cannot be written.
    """
    check_writable(path)
    write_bytes(path, rows_as_bytes(rows, path.suffix.lower()))


def rows_as_bytes(rows: Sequence[Mapping[str, object]], suffix: str) -> bytes:
    """Return the contents of a file with the rows, in the format of a suffix such as ".csv"."""
    if suffix == ".parquet":
        return _parquet(rows)
    if suffix in DELIMITED:
        return _delimited(rows, DELIMITED[suffix] or ",").encode()
    if suffix == ".json":
        lines = ",\n".join(map(json_line, rows))
        return f"[\n{lines}\n]\n".encode()
    return "".join(f"{json_line(row)}\n" for row in rows).encode()


def json_line(value: object) -> str:
    """Return a value as JSON on one line, with the original spelling of numbers."""
    if isinstance(value, Number) and _JSON_NUMBER.fullmatch(value):
        return str(value)
    if isinstance(value, dict):
        pairs = (f"{json_line(str(key))}: {json_line(inner)}" for key, inner in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(json_line, value))}]"
    line = json.dumps(value, ensure_ascii=False, default=str)
    # An unpaired surrogate, such as half of an emoji, has no UTF-8, but JSON can escape it.
    return json.dumps(value, default=str) if _SURROGATE.search(line) else line


def _columns(rows: Sequence[Mapping[str, object]]) -> dict[str, list[object]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {_utf8(name): [_utf8(row.get(name)) for row in rows] for name in names}


def _utf8(value: Any) -> Any:
    """Return a value with U+FFFD in place of unpaired surrogates, if it is a text with any."""
    has = isinstance(value, str) and _SURROGATE.search(value)
    return _SURROGATE.sub("\ufffd", value) if has else value


def _delimited(rows: Sequence[Mapping[str, object]], separator: str) -> str:
    columns = _columns(rows)
    lines = [[*columns], *zip(*(map(_cell, values) for values in columns.values()), strict=True)]
    # With another line terminator, the csv module does not quote a carriage return.
    returns = any("\r" in cell for line in lines for cell in line)
    text = io.StringIO(newline="")
    csv.writer(
        text,
        delimiter=separator,
        lineterminator="\n",
        quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL,
    ).writerows(lines)
    return text.getvalue()


def _cell(value: object) -> str:
    """Return a value as text, for formats that contain only texts."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json_line(value)


def _parquet(rows: Sequence[Mapping[str, object]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({name: _array(v) for name, v in _columns(rows).items()}), file)
    return file.getvalue()


def _array(values: list[object]) -> Any:
    """Return an Arrow array: numbers if their spelling is kept, else the values' type, or text."""
    import pyarrow as pa

    if all(value is None or isinstance(value, Number) for value in values):
        for number in (int, float):
            with suppress(ValueError, OverflowError, pa.ArrowInvalid):
                numbers = [None if value is None else number(str(value)) for value in values]
                if [as_spelled(value) for value in numbers] == values:
                    return pa.array(numbers)
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # values of several types
        return pa.array([None if value is None else _cell(value) for value in values], pa.string())
