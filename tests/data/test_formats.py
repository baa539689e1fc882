import csv
import gzip
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.data import json_document, parsed_row
from telltune.data.examples import Problem
from telltune.data.formats import format_of, known_suffixes, read_rows, stem_of
from telltune.data.parsed_row import ParsedRow
from telltune.errors import DataError

on_files = settings(max_examples=30)
texts = st.text(st.characters(exclude_categories=["Cs"]))
tables = st.lists(st.tuples(texts, texts), min_size=1, max_size=5)


def rows_of(path, content=None):
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_rows(path))


def test_jsonl_rows_carry_their_line_and_blank_lines_are_no_rows(tmp_path):
    rows = rows_of(tmp_path / "a.jsonl", '{"a": "x"}\r\n\n   \n{"a": "y"}')
    assert rows == [ParsedRow(1, {"a": "x"}), ParsedRow(4, {"a": "y"})]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.csv", "a.tsv"])
def test_byte_order_mark_is_tolerated_and_gzip_is_opened(tmp_path, name):
    content = "\ufeff" + {
        "a.json": '[{"k": "v"}]',
        "a.csv": "k\nv\n",
        "a.tsv": "k\nv\n",
    }.get(name, '{"k": "v"}')
    plain = rows_of(tmp_path / name, content)
    packed = rows_of(tmp_path / f"{name}.gz", gzip.compress(content.encode()))
    assert [row.values for row in plain] == [{"k": "v"}]
    assert packed == plain


def test_broken_json_line_is_a_problem_and_reading_goes_on(tmp_path):
    bad, good = rows_of(tmp_path / "a.jsonl", '{"a": \n{"a": 1}\n')
    assert bad.line == 1
    assert "not JSON" in bad.reason
    assert good == ParsedRow(2, {"a": "1"})


@pytest.mark.parametrize("line", ["[1]", "3", '"text"', "null", "true"])
def test_json_line_that_is_no_object_is_a_problem(tmp_path, line):
    (problem,) = rows_of(tmp_path / "a.jsonl", line)
    assert "not a JSON object" in problem.reason


def test_numbers_keep_their_spelling_and_nan_is_missing(tmp_path):
    (row,) = rows_of(tmp_path / "a.jsonl", '{"a": 1.50, "b": 12345678901234567890, "c": NaN}')
    assert row.values == {"a": "1.50", "b": "12345678901234567890", "c": None}
    spelled = '{"a": -0, "b": 1e5, "c": 1E+400, "d": 0.10, "e": -Infinity, "f": [1.0]}'
    (row,) = rows_of(tmp_path / "a.jsonl", spelled)
    assert list(row.values.values()) == ["-0", "1e5", "1E+400", "0.10", "-Infinity", ["1.0"]]


def test_number_of_ten_thousand_digits_is_text_like_any_other(tmp_path):
    (row,) = rows_of(tmp_path / "a.jsonl", '{"a": ' + "9" * 10_000 + "}")
    assert row.values["a"] == "9" * 10_000


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_deep_nesting_is_a_problem_not_a_crash(tmp_path, name):
    (problem,) = rows_of(tmp_path / name, '{"a": ' + "[" * 200_000)
    assert "nested too deeply" in problem.reason


def test_long_line_is_a_problem_and_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(parsed_row, "MAX_ROW_BYTES", 100)
    rows = rows_of(tmp_path / "a.jsonl", '{"a": "' + "x" * 1000 + '"}\n{"a": "y"}\n')
    assert isinstance(rows[0], Problem)
    assert "split it" in rows[0].reason
    assert rows[1:] == [ParsedRow(2, {"a": "y"})]


def test_line_of_exactly_the_longest_length_is_read(tmp_path, monkeypatch):
    line = '{"a": "x"}\n'
    monkeypatch.setattr(parsed_row, "MAX_ROW_BYTES", len(line))
    assert rows_of(tmp_path / "a.jsonl", line * 2) == [
        ParsedRow(1, {"a": "x"}),
        ParsedRow(2, {"a": "x"}),
    ]


def test_key_that_stands_twice_is_a_problem_not_a_loss(tmp_path):
    for name, content in (("a.jsonl", '{"a": 1, "a": 2}'), ("a.json", '[{"b": {"a": 1, "a": 2}}]')):
        (problem,) = rows_of(tmp_path / name, content)
        assert "the key `a` occurs twice" in problem.reason


def test_json_array_elements_carry_the_line_they_begin_on(tmp_path):
    rows = rows_of(tmp_path / "a.json", '[\n  {"a": "x\\n"},\n\n  {\n"a": "y"}, 3, {"a": "]"}]\n')
    assert [row.line for row in rows] == [2, 4, 5, 5]
    assert isinstance(rows[2], Problem)
    assert rows[3].values == {"a": "]"}


def test_json_object_with_one_list_is_read_through(tmp_path):
    document = '{"version": "[1]", "data":\n [{"a": "x"}], "n": {"b": [1]}}'
    assert rows_of(tmp_path / "a.json", document) == [ParsedRow(2, {"a": "x"}, ("version", "n"))]


@pytest.mark.parametrize("document", ["{}", '{"a": [], "b": []}', "3", '"[]"', '{"a": "x"}'])
def test_json_document_without_one_list_is_a_problem(tmp_path, document):
    (problem,) = rows_of(tmp_path / "a.json", document)
    assert "neither an array" in problem.reason


def test_json_lines_under_a_json_name_are_told_their_right_name(tmp_path):
    (problem,) = rows_of(tmp_path / "a.json", '{"a": 1}\n{"a": 2}\n')
    assert problem.line == 2
    assert ".jsonl" in problem.reason


@pytest.mark.parametrize("opening", ["[", '{"data": ['])
def test_json_row_over_the_longest_length_is_a_problem_and_not_held(tmp_path, monkeypatch, opening):
    monkeypatch.setattr(json_document, "MAX_ROW_BYTES", 100)
    monkeypatch.setattr(json_document, "PIECE_BYTES", 16)
    end = "]" if opening == "[" else "]}"
    document = opening + '{"a":\n"' + "x" * 1000 + '"},\n{"a": "y"}' + end
    problem, row = rows_of(tmp_path / "a.json", document)
    assert (problem.line, row) == (1, ParsedRow(3, {"a": "y"}))
    assert "split it" in problem.reason


@pytest.mark.parametrize("document", ["", " \n", "[]", '{"data": []}'])
def test_empty_json_document_has_no_rows(tmp_path, document):
    assert rows_of(tmp_path / "a.json", document) == []


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_bytes_that_are_not_utf8_are_named_by_line_and_byte(tmp_path, name):
    before = {"a.jsonl": b'{"a": 1}\n"', "a.json": b'[{"a":\n"', "a.csv": b'p\n"'}[name]
    problem = rows_of(tmp_path / name, before + b"\xe6\n")[-1]
    assert problem.line == 2
    assert "0xe6 at byte 2" in problem.reason


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_utf16_is_named(tmp_path, name):
    (problem,) = rows_of(tmp_path / name, '[{"a": 1}]\n'.encode("utf-16"))
    assert "UTF-16" in problem.reason


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"text,label\n", mtime=0), "the file is compressed: add .gz to its name"),
        (b"PK\x03\x04\x14\x00", "the file is an Excel workbook or a ZIP archive: save it as CSV"),
        (b"PAR1\x15\x04", "the file is a Parquet file: let its name end in .parquet"),
    ],
)
def test_other_content_under_the_name_of_a_text_file_is_named(tmp_path, name, content, said):
    (problem,) = rows_of(tmp_path / name, content)
    assert problem.reason.startswith(said)


def test_utf16_without_a_byte_order_mark_is_known_by_its_header(tmp_path):
    (problem,) = rows_of(tmp_path / "b.csv", "text,label\na,x\n".encode("utf-16-le"))
    assert problem.reason == "the header contains NUL bytes: save the file as UTF-8"


def test_json_list_under_the_name_of_json_lines_is_told_its_right_name(tmp_path):
    (problem,) = rows_of(tmp_path / "a.jsonl", b'[{"a": 1}]\n')
    assert problem.reason.endswith("; rename the file to .json if it is one list")


def test_truncated_gzip_is_a_problem(tmp_path):
    content = gzip.compress(b'{"a": "x"}\n' * 5000, mtime=0)
    rows = rows_of(tmp_path / "a.jsonl.gz", content[: len(content) // 2])
    assert "gzip stream is damaged" in rows[-1].reason


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv.gz", "a.parquet"])
def test_fifo_is_refused_rather_than_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="not a regular file"):
        rows_of(tmp_path / name)


def test_file_without_permission_is_refused_by_name(tmp_path, monkeypatch):
    def refuse(self, mode):
        raise PermissionError(13, "Permission denied")

    # Not by chmod, since root can read every file.
    monkeypatch.setattr(Path, "open", refuse)
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(DataError, match=r"a\.jsonl cannot be read: Permission denied"):
        rows_of(tmp_path / "a.jsonl")


def test_unknown_suffix_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(DataError, match=r"a\.xlsx has an unsupported format.*\.csv"):
        rows_of(tmp_path / "a.xlsx", b"")


def test_format_and_stem_come_from_the_name(tmp_path):
    names = ["a.b.JSONL.GZ", "a.csv", "a.gz", "a.parquet.gz", "jsonl"]
    paths = [tmp_path / name for name in names]
    assert [format_of(path) for path in paths] == [".jsonl", ".csv", None, None, None]
    assert [stem_of(path) for path in paths[:2]] == ["a.b", "a"]
    assert stem_of(tmp_path / "train-00000-of-00005.parquet") == "train"
    assert stem_of(tmp_path / "saved" / "data-00000-of-00001.arrow") == "saved"


def written(table, suffix):
    stream = io.StringIO()
    records = [{"p": p, "c": c} for p, c in table]
    if suffix in (".parquet", ".arrow"):
        packed, arrow = io.BytesIO(), pa.Table.from_pylist(records)
        if suffix == ".parquet":
            pq.write_table(arrow, packed)
        else:
            with pa.ipc.new_stream(packed, arrow.schema) as writer:
                writer.write_table(arrow, max_chunksize=2)
        return packed.getvalue()
    if suffix in (".csv", ".tsv"):
        writer = csv.writer(
            stream, delimiter="," if suffix == ".csv" else "\t", quoting=csv.QUOTE_ALL
        )
        writer.writerows([("p", "c"), *table])
    elif suffix == ".json":
        json.dump(records, stream, ensure_ascii=False)
    else:
        stream.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return stream.getvalue().encode()


@pytest.mark.parametrize("suffix", known_suffixes())
@on_files
@given(table=tables)
def test_any_text_survives_the_round_trip(tmp_path, suffix, table):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(written(table, suffix))
    # That all cells are quoted is known here, and with it that lines which look like rows are none.
    rows = list(read_rows(path, "minimal"))
    assert [(row.values["p"], row.values["c"]) for row in rows] == table


@pytest.mark.parametrize("suffix", [*known_suffixes(), ".jsonl.gz"])
@on_files
@given(content=st.binary() | st.text('[]{}",:\\\n\r\t;a1\0').map(str.encode))
def test_any_bytes_give_only_rows_and_problems(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    for found in rows_of(path, content):
        assert isinstance(found, ParsedRow | Problem)
        assert found.line >= 1
