"""Rows are written in the format of the file name, and read back unchanged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.data.formats import read_rows
from telltune.data.parsed_row import Number, ParsedRow
from telltune.data.writing import check_writable, json_line, write_rows
from telltune.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"]
texts = st.text(st.characters(exclude_categories=["Cs"]))


def read(path: Path) -> list[Any]:
    return [row.values if isinstance(row, ParsedRow) else row for row in read_rows(path, "minimal")]


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=20)
@given(rows=st.lists(st.fixed_dictionaries({"p": texts, "a b": texts}), min_size=1, max_size=4))
def test_texts_are_read_back(tmp_path: Path, suffix: str, rows: list[dict[str, object]]) -> None:
    write_rows(tmp_path / f"a{suffix}", rows)
    assert read(tmp_path / f"a{suffix}") == rows


@pytest.mark.parametrize("suffix", FORMATS)
def test_half_of_an_emoji_is_escaped_in_json_and_replaced_elsewhere(
    tmp_path: Path, suffix: str
) -> None:
    rows = [{"text": "a", "author": "x\ud83d"}]
    path = tmp_path / f"a{suffix}"
    write_rows(path, rows)
    kept = "json" in suffix
    assert read(path) == (rows if kept else [{"text": "a", "author": "x\ufffd"}])


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("suffix", FORMATS)
def test_numbers_keep_their_spelling_from_any_format_to_any_other(
    tmp_path: Path, source: str, suffix: str
) -> None:
    spelled = ["1.50", "1e5", "12345678901234567890", "-0"]
    line = '{"prompt": "x", "a": [1.0], "n": {}}\n'
    (tmp_path / "a.jsonl").write_text("".join(line.replace("{}", text) for text in spelled))
    write_rows(tmp_path / f"b{source}", read(tmp_path / "a.jsonl"))
    write_rows(tmp_path / f"c{suffix}", read(tmp_path / f"b{source}"))
    assert [row["n"] for row in read(tmp_path / f"c{suffix}")] == spelled


def test_json_has_numbers_where_the_input_had_them(tmp_path: Path) -> None:
    line = '{"prompt": "ab", "id": 7, "x": 1.50, "y": [true, null, {"z": 0.10}]}'
    (tmp_path / "a.jsonl").write_text(line)
    (row,) = read(tmp_path / "a.jsonl")
    assert json_line(row) == line
    assert json_line(Number("007")) == '"007"'  # not as JSON writes it


def test_parquet_has_numbers_where_no_spelling_is_lost(tmp_path: Path) -> None:
    rows = [
        {
            "id": Number("7"),
            "x": Number("0.5"),
            "price": Number("1.50"),
            "any": ["a"],
            "none": None,
        },
        {"id": None, "x": Number("2.0"), "price": Number("2"), "any": "b", "none": None},
    ]
    write_rows(tmp_path / "a.parquet", rows)
    assert [str(field.type) for field in pq.read_schema(tmp_path / "a.parquet")] == [
        "int64",
        "double",
        "string",
        "string",
        "null",
    ]
    assert [row["price"] for row in read(tmp_path / "a.parquet")] == ["1.50", "2"]
    assert [row["any"] for row in read(tmp_path / "a.parquet")] == ['["a"]', "b"]


def test_rows_need_not_have_the_same_columns(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.csv", [{"a": "1"}, {"b": {"c": [True, None]}, "a": None}])
    assert (tmp_path / "a.csv").read_text() == 'a,b\n1,\n,"{""c"": [true, null]}"\n'


@pytest.mark.parametrize("name", ["a", "a.txt", "a.xlsx", "a.jsonl.gz", "a.arrow"])
def test_a_name_that_says_no_format_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match=r"use a file name that ends in one of \.jsonl"):
        write_rows(tmp_path / name, [{"a": "1"}])
    assert list(tmp_path.iterdir()) == []


def test_a_json_file_is_json(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.json", [{"a": Number("1")}, {"a": "x"}])
    assert json.loads((tmp_path / "a.json").read_text()) == [{"a": 1}, {"a": "x"}]


def test_a_file_that_is_read_is_not_replaced_by_any_name(tmp_path: Path) -> None:
    given = tmp_path / "given.jsonl"
    given.touch()
    (tmp_path / "soft.jsonl").symlink_to(given)
    (tmp_path / "hard.jsonl").hardlink_to(given)
    for name in ("given.jsonl", "soft.jsonl", "hard.jsonl", f"../{tmp_path.name}/given.jsonl"):
        with pytest.raises(StorageError, match="is read by this command and would be replaced"):
            check_writable(tmp_path / name, [tmp_path / "none.jsonl", given])
    (tmp_path / "old.jsonl").touch()
    check_writable(tmp_path / "old.jsonl", [given])
    check_writable(tmp_path / "new.jsonl", [given])
