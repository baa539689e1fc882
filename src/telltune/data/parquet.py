"""Rows of Parquet and Arrow files, which can expand to more text than fits in memory.

A column can contain one long text and a million references to it. Texts of a Parquet file are
therefore read as references. Their total size is computed first, which limits the number of rows
that are expanded at once. Numbers become text that parses to the same number, as in other formats.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from telltune.data.parsed_row import (
    MAX_ROW_BYTES,
    TOO_LONG,
    Fault,
    Number,
    ParsedRow,
    StopReadingError,
)
from telltune.errors import shown

BATCH_ROWS = 1024
# First bytes of the Arrow file format, which the streaming format does not have.
_ARROW_FILE = b"ARROW1"


def parquet_rows(path: Path) -> Iterator[ParsedRow | Fault]:
    """Yield the rows of a Parquet file, numbered from 1.

    Raises:
        StopReadingError: The file is damaged from some row on.
    """
    return _rows(_parquet_batches(path), "the Parquet file")


def arrow_rows(path: Path) -> Iterator[ParsedRow | Fault]:
    """Yield the rows of an Arrow file, such as `datasets` saves, numbered from 1.

    Raises:
        StopReadingError: The file is damaged from some row on.
    """
    return _rows(_arrow_batches(path), "the Arrow file")


def table_rows(table: Any, what: str) -> Iterator[ParsedRow | Fault]:
    """Yield the rows of a pyarrow table, numbered from 1; messages call it `what`.

    Raises:
        StopReadingError: A value is outside the range of Python's types.
    """
    batches = table.to_batches(max_chunksize=BATCH_ROWS)
    return _rows(((batch, table.schema) for batch in batches), what)


def as_spelled(value: object) -> object:
    """Convert numbers, dates and times to text, at any depth. Other values do not change.

    Floats have the fewest digits that parse to the same float, decimals have the places of their
    type, and dates and times use ISO 8601. NaN, which pandas writes for a missing value, becomes
    None.
    """
    if isinstance(value, bool | str):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else Number(repr(value))
    if isinstance(value, int):
        return Number(value)
    if isinstance(value, decimal.Decimal):
        return Number(f"{value:f}")
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, list | tuple):
        return type(value)(map(as_spelled, value))
    if isinstance(value, dict):
        return {key: as_spelled(inner) for key, inner in value.items()}
    return value


def _rows(batches: Iterator[tuple[Any, Any]], what: str) -> Iterator[ParsedRow | Fault]:
    """Yield the rows of pairs (batch, schema of its values)."""
    import pyarrow as pa

    line = 1
    try:
        for batch, schema in batches:
            for part, fits in _parts(batch):
                if not fits:
                    yield Fault(line, TOO_LONG)
                    line += 1
                    continue
                for values in _values(part, schema):
                    yield ParsedRow(line, values)
                    line += 1
    # Arrow also raises OSError for damaged bytes, and ValueError for values outside Python's range.
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise StopReadingError(line, f"{what} is damaged: {reason}") from error


def _parquet_batches(path: Path) -> Iterator[tuple[Any, Any]]:
    import pyarrow.parquet as pq

    with (
        pq.ParquetFile(path) as plain,
        pq.ParquetFile(path, read_dictionary=_texts(plain)) as table,
    ):
        for batch in table.iter_batches(batch_size=BATCH_ROWS):
            yield batch, plain.schema_arrow


def _arrow_batches(path: Path) -> Iterator[tuple[Any, Any]]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        is_file = file.read(len(_ARROW_FILE)) == _ARROW_FILE
        file.seek(0)
        with pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file) as reader:
            batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
            for batch in batches:
                # Without this call, Arrow does not check the offsets in a file.
                batch.validate(full=True)
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    yield batch.slice(start, BATCH_ROWS), reader.schema


def _values(batch: Any, schema: Any) -> Iterator[dict[str, object]]:
    import pyarrow as pa

    # Converting references to Python one by one takes six times as long as converting texts.
    with suppress(pa.ArrowNotImplementedError):  # raised for views, for example
        batch = batch.cast(schema)
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise StopReadingError(1, f"the column `{shown(name)}` occurs twice: rename one")
    labels = _label_names(schema)
    columns = [
        _column(column, labels.get(name))
        for name, column in zip(schema.names, batch.columns, strict=True)
    ]
    for values in zip(*columns, strict=True):
        yield dict(zip(schema.names, values, strict=True))


def _column(column: Any, labels: list[str] | None) -> list[object]:
    """Return the values of a column as they appear in rows."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        # Conversion to Python's float first would add digits that a short float does not have.
        texts = map(str, column.to_numpy(zero_copy_only=False))
        return [as_spelled(float(text)) for text in texts]
    values: list[object] = column.to_pylist()
    if labels is not None:
        return [class_name(value, labels) for value in values]
    return values if _is_text(kind) else list(map(as_spelled, values))


def class_name(value: object, names: Sequence[str]) -> object:
    """Return the name of a class by its number. -1 (unknown) gives None.

    A number without a name becomes text, as in `as_spelled`.
    """
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return None if value == -1 else as_spelled(value)


def _label_names(schema: Any) -> dict[str, list[str]]:
    """Return class names by column, from metadata that `datasets` writes."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {
            column: list(map(str, feature["names"]))
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):  # no metadata, or a different kind
        return {}


def _texts(table: Any) -> list[str]:
    """Return the paths of text columns, at any depth."""
    columns = [table.schema.column(i) for i in range(len(table.schema))]
    return [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY" and column.logical_type.type != "DECIMAL"
    ]


def _parts(batch: Any) -> Iterator[tuple[Any, bool]]:
    """Split a batch into parts with at most `MAX_ROW_BYTES` of text.

    Yields:
        Pairs of a part and whether it fits. Only a single row can be too large.
    """
    fits = sum(map(_text_bytes, batch.columns)) <= MAX_ROW_BYTES
    if fits or batch.num_rows == 1:
        yield batch, fits
        return
    half = batch.num_rows // 2
    yield from _parts(batch.slice(0, half))
    yield from _parts(batch.slice(half))


def _text_bytes(column: Any) -> int:
    """Return the total bytes of a column's texts, counted once per reference."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind) and _is_text(kind.value_type):
        return int(pc.sum(pc.take(_lengths(column.dictionary), column.indices)).as_py() or 0)
    if _is_text(kind):
        return int(pc.sum(_lengths(column)).as_py() or 0)
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if pa.types.is_struct(kind) or any(is_list(kind) for is_list in lists):
        inner = column.flatten()
        return sum(map(_text_bytes, inner if isinstance(inner, list) else [inner]))
    if pa.types.is_map(kind):
        return _text_bytes(column.keys) + _text_bytes(column.items)
    return 0


def _lengths(column: Any) -> Any:
    """Return the number of bytes of each text, as an Arrow array."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type)):
        return pc.binary_length(column)
    # A view has 16 bytes and starts with the length of its text.
    lengths = np.frombuffer(column.buffers()[1], "<i4")[::4]
    return pa.array(lengths[column.offset :][: len(column)])


def _is_text(kind: Any) -> bool:
    """Return whether the values of a type are texts or bytes."""
    import pyarrow.types as types

    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
    )
