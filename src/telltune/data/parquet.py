"""Rows of a Parquet file, whose few bytes may stand for more text than there is memory.

A column may hold one long text and a million references to it. Texts are therefore read as
references, how much they come to is counted, and only so many rows are written out at once.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from telltune.data.row import MAX_ROW_BYTES, TOO_LONG, Fault, Row, StopReadingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

__all__ = ["parquet_rows", "with_class_names"]

BATCH_ROWS = 1024


def parquet_rows(path: Path) -> Iterator[Row | Fault]:
    """The rows of a file, counted from 1.

    Raises:
        StopReadingError: It is damaged from some row on.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    line = 1
    try:
        with (
            pq.ParquetFile(path) as plain,
            pq.ParquetFile(path, read_dictionary=_texts(plain)) as table,
        ):
            names = _class_names(plain.schema_arrow)
            for batch in table.iter_batches(batch_size=BATCH_ROWS):
                for part, fits in _parts(batch):
                    if not fits:
                        yield Fault(line, TOO_LONG)
                        line += 1
                        continue
                    for values in _values(part, plain.schema_arrow):
                        yield Row(line, with_class_names(values, names))
                        line += 1
    # Arrow raises OSError for damaged bytes too, and ValueError for values Python cannot hold.
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise StopReadingError(line, f"the Parquet file is damaged: {reason}") from error


def with_class_names(
    values: dict[str, object], names: Mapping[str, Sequence[str]]
) -> dict[str, object]:
    """A row with the names of classes in place of their numbers; -1, for unknown, becomes None."""
    for key, classes in names.items():
        number = values.get(key)
        if isinstance(number, int):
            values[key] = classes[number] if 0 <= number < len(classes) else None
    return values


def _class_names(schema: Any) -> dict[str, list[str]]:
    """The names of classes by column, where `datasets` wrote its features into the file."""
    # A file may hold anything under this key: what is not of its layout names nothing.
    with suppress(ValueError, TypeError, AttributeError, KeyError):
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {
            key: [str(name) for name in feature["names"]]
            for key, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    return {}


def _values(batch: Any, schema: Any) -> list[dict[str, object]]:
    import pyarrow as pa

    # References cost six times as much to write out, one by one, as texts do.
    with suppress(pa.ArrowNotImplementedError):  # of views, say
        batch = batch.cast(schema)
    found: list[dict[str, object]] = batch.to_pylist()
    return found


def _texts(table: Any) -> list[str]:
    """The columns that hold texts, at any depth."""
    columns = [table.schema.column(i) for i in range(len(table.schema))]
    return [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY" and column.logical_type.type != "DECIMAL"
    ]


def _parts(batch: Any) -> Iterator[tuple[Any, bool]]:
    """A batch in parts whose texts come to no more than a row may have; a row alone may not fit."""
    fits = sum(map(_text_bytes, batch.columns)) <= MAX_ROW_BYTES
    if fits or batch.num_rows == 1:
        yield batch, fits
        return
    half = batch.num_rows // 2
    yield from _parts(batch.slice(0, half))
    yield from _parts(batch.slice(half))


def _text_bytes(column: Any) -> int:
    """What the texts that a column refers to come to, each as often as it is referred to."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(column.dictionary)
        return int(pc.sum(pc.take(lengths, column.indices)).as_py() or 0)
    if pa.types.is_struct(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = column.flatten()
        return sum(map(_text_bytes, inner if isinstance(inner, list) else [inner]))
    if pa.types.is_map(kind):
        return _text_bytes(column.keys) + _text_bytes(column.items)
    return 0
