"""Parquet: every type that a table may have, and no more memory than its rows take one by one."""

from __future__ import annotations

import datetime
import decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from telltune.data import parquet
from telltune.data.examples import Problem
from telltune.data.readers import Row, read_rows

if TYPE_CHECKING:
    from pathlib import Path

TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]
COLUMNS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "text": (pa.string(), ["a", None, "þ"]),
    "large": (pa.large_string(), ["a", None, "þ"]),
    "view": (pa.string_view(), ["a", None, "þ"]),
    "binary": (pa.binary(), [b"\xff", None, b""]),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), ["a", "a", None]),
    "number": (pa.int64(), [1, None, 2**60]),
    "decimal": (pa.decimal128(30, 2), [decimal.Decimal("1.50"), None, decimal.Decimal(-2)]),
    "day": (pa.date32(), [datetime.date(2024, 2, 29), None, datetime.date(1, 1, 1)]),
    "turns": (
        pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
        [TURNS, None, []],
    ),
    "lists": (pa.list_(pa.list_(pa.large_string())), [[["a"], None], [], None]),
    "map": (pa.map_(pa.string(), pa.string()), [[("k", "v")], None, []]),
    "nulls": (pa.null(), [None, None, None]),
}


def write(path: Path, table: pa.Table, **options: Any) -> Path:
    pq.write_table(table, path, **options)
    return path


@pytest.mark.parametrize("stored", [True, False], ids=["arrow's types", "parquet's types"])
@pytest.mark.parametrize("name", COLUMNS)
def test_every_type_is_read_as_it_was_written(tmp_path: Path, name: str, stored: bool) -> None:
    kind, values = COLUMNS[name]
    table = pa.table({"x": pa.array(values, kind), "n": [1, 2, 3]})
    path = write(tmp_path / "a.parquet", table, store_schema=stored)
    assert [row.values["x"] for row in read_rows(path) if isinstance(row, Row)] == values


def test_rows_are_numbered_over_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BATCH_ROWS", 2)
    path = write(tmp_path / "a.parquet", pa.table({"a": ["x", None, "z"]}))
    assert list(read_rows(path)) == [Row(1, {"a": "x"}), Row(2, {"a": None}), Row(3, {"a": "z"})]


def test_damaged_bytes_are_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 no more")
    [problem] = read_rows(path)
    assert isinstance(problem, Problem)
    assert "Parquet file is damaged" in problem.reason


@pytest.mark.parametrize("nested", [False, True])
def test_texts_are_written_out_only_as_far_as_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    monkeypatch.setattr(parquet, "MAX_ROW_BYTES", 1000)
    short, long, over = "a" * 300, "b" * 900, "c" * 1001
    texts = [short] * 5 + [over, long, short, over]
    column = [[{"x": text}] for text in texts] if nested else texts
    path = write(tmp_path / "a.parquet", pa.table({"x": column}))
    rows = list(read_rows(path))
    assert [isinstance(row, Row) for row in rows] == [text != over for text in texts]
    assert [row.line for row in rows] == list(range(1, 10))
    assert [row.values["x"] for row in rows if isinstance(row, Row)] == [
        value for value, text in zip(column, texts, strict=True) if text != over
    ]


@pytest.mark.parametrize("nested", [False, True])
def test_a_small_file_of_many_references_does_not_swell(tmp_path: Path, nested: bool) -> None:
    long, count = "x" * 2**22, 4000
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([long]))
    column = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), texts) if nested else texts
    path = write(
        tmp_path / "a.parquet",
        pa.table({"prompt": column}),
        compression="zstd",
        dictionary_pagesize_limit=2**30,
        store_schema=False,
    )
    assert path.stat().st_size < 4096
    # 16 GB of text in all. One row of it at a time fits, and a list of all of it does not.
    first = next(iter(read_rows(path)))
    assert pa.total_allocated_bytes() < 2**28
    assert isinstance(first, Problem if nested else Row)
