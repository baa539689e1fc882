"""Every type of a Parquet or Arrow table is read, in no more memory than its rows take."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.data import parquet
from telltune.data.examples import Problem
from telltune.data.formats import read_rows
from telltune.data.parsed_row import ParsedRow

if TYPE_CHECKING:
    from pathlib import Path

TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]
COLUMNS: dict[str, tuple[pa.DataType, list[Any], list[Any]]] = {
    "text": (pa.string(), ["a", None, "þ"], ["a", None, "þ"]),
    "large": (pa.large_string(), ["a", None, "þ"], ["a", None, "þ"]),
    "view": (pa.string_view(), ["a", None, "þ"], ["a", None, "þ"]),
    "binary": (pa.binary(), [b"\xff", None, b""], [b"\xff", None, b""]),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), ["a", "a", None], ["a", "a", None]),
    "number": (pa.int64(), [1, None, 2**60], ["1", None, str(2**60)]),
    "unsigned": (pa.uint64(), [0, None, 2**64 - 1], ["0", None, str(2**64 - 1)]),
    "float": (pa.float64(), [1.0, None, 0.1], ["1.0", None, "0.1"]),
    "short float": (pa.float32(), [1.0, math.nan, 0.1], ["1.0", None, "0.1"]),
    "half float": (pa.float16(), [1.0, None, 0.1], ["1.0", None, "0.1"]),
    "decimal": (
        pa.decimal128(30, 2),
        [decimal.Decimal("1.50"), None, decimal.Decimal(-2)],
        ["1.50", None, "-2.00"],
    ),
    "truth": (pa.bool_(), [True, None, False], [True, None, False]),
    "day": (
        pa.date32(),
        [datetime.date(2024, 2, 29), None, datetime.date(1, 1, 1)],
        ["2024-02-29", None, "0001-01-01"],
    ),
    "time": (
        pa.timestamp("ms"),
        [datetime.datetime(2024, 2, 29, 12, 30), None, datetime.datetime(1970, 1, 1)],
        ["2024-02-29T12:30:00", None, "1970-01-01T00:00:00"],
    ),
    "turns": (
        pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
        [TURNS, None, []],
        [TURNS, None, []],
    ),
    "lists": (
        pa.list_(pa.list_(pa.large_string())),
        [[["a"], None], [], None],
        [[["a"], None], [], None],
    ),
    "numbers": (pa.list_(pa.int8()), [[1, 2], None, []], [["1", "2"], None, []]),
    "map": (pa.map_(pa.string(), pa.string()), [[("k", "v")], None, []], [[("k", "v")], None, []]),
    "nulls": (pa.null(), [None, None, None], [None, None, None]),
}


def write(path: Path, table: pa.Table, **options: Any) -> Path:
    pq.write_table(table, path, **options)
    return path


def write_arrow(path: Path, table: pa.Table, *, stream: bool = True, rows: int = 1000) -> Path:
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


@pytest.mark.parametrize("form", ["arrow's types", "parquet's types", "stream", "file"])
@pytest.mark.parametrize("name", COLUMNS)
def test_every_type_is_read_as_text_that_spells_it(tmp_path: Path, name: str, form: str) -> None:
    kind, values, spelled = COLUMNS[name]
    # NumPy's type, since Python has no 16-bit float.
    if name == "half float":
        values = [None if value is None else np.float16(value) for value in values]
    table = pa.table({"x": pa.array(values, kind), "n": [1, 2, 3]})
    if form in ("stream", "file"):
        path = write_arrow(tmp_path / "a.arrow", table, stream=form == "stream")
    else:
        path = write(tmp_path / "a.parquet", table, store_schema=form == "arrow's types")
    assert [row.values["x"] for row in read_rows(path) if isinstance(row, ParsedRow)] == spelled


@settings(max_examples=60)
@given(number=st.floats(allow_nan=False) | st.floats(width=32, allow_nan=False))
def test_a_float_is_read_as_text_that_gives_the_same_float(tmp_path: Path, number: float) -> None:
    for kind in (pa.float64(), pa.float32()):
        stored = pa.array([number], kind, safe=False)
        path = write(tmp_path / "a.parquet", pa.table({"x": stored}))
        [row] = read_rows(path)
        assert isinstance(row, ParsedRow)
        assert pa.array([float(str(row.values["x"]))], kind) == stored


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_classes_are_read_by_their_names(tmp_path: Path, suffix: str) -> None:
    names = {"info": {"features": {"y": {"names": ["neg", "pos"], "_type": "ClassLabel"}}}}
    table = pa.table({"y": [1, 0, -1, 2, None]}).replace_schema_metadata(
        {"huggingface": json.dumps(names)}
    )
    write_here = write if suffix == ".parquet" else write_arrow
    path = write_here(tmp_path / f"a{suffix}", table)
    read = [row.values["y"] for row in read_rows(path) if isinstance(row, ParsedRow)]
    assert read == ["pos", "neg", None, "2", None]


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["x", "x"])
    for path in (write(tmp_path / "a.parquet", table), write_arrow(tmp_path / "a.arrow", table)):
        [problem] = read_rows(path)
        assert isinstance(problem, Problem)
        assert "the column `x` occurs twice" in problem.reason


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_bytes_that_were_changed_give_only_rows_and_problems(
    tmp_path: Path, stream: bool
) -> None:
    table = pa.table({"x": ["a", None, "long " * 9], "y": [[["b"], []], None, [["c", "d"]]]})
    whole = write_arrow(tmp_path / "a.arrow", table, stream=stream).read_bytes()
    path = tmp_path / "b.arrow"
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        for found in read_rows(path):
            assert isinstance(found, ParsedRow | Problem)


def test_arrow_rows_are_numbered_over_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BATCH_ROWS", 2)
    path = write_arrow(tmp_path / "a.arrow", pa.table({"a": list("abcdefg")}), rows=3)
    assert list(read_rows(path)) == [
        ParsedRow(i, {"a": a}) for i, a in enumerate("abcdefg", start=1)
    ]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_arrow_texts_are_written_out_only_as_far_as_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: pa.DataType
) -> None:
    monkeypatch.setattr(parquet, "MAX_ROW_BYTES", 1000)
    texts = ["a" * 300] * 5 + ["c" * 1001, "b" * 900]
    path = write_arrow(tmp_path / "a.arrow", pa.table({"x": pa.array(texts, kind)}))
    rows = list(read_rows(path))
    assert [isinstance(row, ParsedRow) for row in rows] == [len(text) <= 1000 for text in texts]


def test_rows_are_numbered_over_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BATCH_ROWS", 2)
    path = write(tmp_path / "a.parquet", pa.table({"a": ["x", None, "z"]}))
    assert list(read_rows(path)) == [
        ParsedRow(1, {"a": "x"}),
        ParsedRow(2, {"a": None}),
        ParsedRow(3, {"a": "z"}),
    ]


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
    assert [isinstance(row, ParsedRow) for row in rows] == [text != over for text in texts]
    assert [row.line for row in rows] == list(range(1, 10))
    assert [row.values["x"] for row in rows if isinstance(row, ParsedRow)] == [
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
    # 16 GB of text in total: one row fits in memory, but a list of all rows does not.
    first = next(iter(read_rows(path)))
    assert pa.total_allocated_bytes() < 2**28
    assert isinstance(first, Problem if nested else ParsedRow)
