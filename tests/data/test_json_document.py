"""A JSON document is read as Python's decoder reads it, whatever its size and chunks."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.data import json_document
from telltune.data.json_document import json_rows
from telltune.data.parsed_row import Fault, ParsedRow, StopReadingError


def read(document: str | bytes) -> list[ParsedRow | Fault]:
    raw = document if isinstance(document, bytes) else document.encode()
    found: list[ParsedRow | Fault] = []
    try:
        found += json_rows(io.BytesIO(raw))
    except StopReadingError as stop:
        found.append(stop.fault)
    return found


VALUES = st.recursive(
    st.none() | st.booleans() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.text(), VALUES), max_size=5)


@settings(max_examples=25)
@given(
    rows=ROWS,
    around=st.dictionaries(st.text(min_size=1), VALUES.filter(lambda v: not isinstance(v, list))),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
)
def test_rows_are_those_of_the_decoder_wherever_chunks_end(
    rows: list[object], around: dict[str, object], indent: int, ascii_only: bool
) -> None:
    for document in (rows, around | {"": rows}):
        text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)
        try:
            raw = text.encode()
        except UnicodeEncodeError:
            continue
        for chunk in (1, 5, 2**20):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(json_document, "PIECE_BYTES", chunk)
                found = read(raw)
            assert [row.values for row in found if isinstance(row, ParsedRow)] == rows
            assert len(found) == len(rows)


@pytest.mark.parametrize(
    ("around", "beside"),
    [
        ('"version": 1, "n": {"a": []}', ("version", "n")),
        ('"a": null, "b": "", "c": "  ", "d": {}, "e": { }', ()),
        ('"a": "null", "b": 0, "c": false, "\\u0064": "x"', ("a", "b", "c", "d")),
    ],
)
def test_rows_name_the_keys_with_values_beside_their_list(
    around: str, beside: tuple[str, ...]
) -> None:
    for document in (f'{{{around}, "data": [{{}}, {{}}]}}', f'{{"data": [{{}}, {{}}], {around}}}'):
        assert [row.beside for row in read(document) if isinstance(row, ParsedRow)] == [beside] * 2


BROKEN = st.text('[]{}",:\\ \n1a', max_size=14)


@settings(max_examples=150)
@given(BROKEN | BROKEN.map(lambda text: f"[{text}]") | BROKEN.map(lambda text: f'{{"a":{text}'))
def test_what_the_decoder_refuses_is_refused_and_what_it_takes_is_read(text: str) -> None:
    found = read(text)
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        assert any(isinstance(row, Fault) for row in found) == bool(text.strip())
        return
    lists = [value] if isinstance(value, list) else []
    if isinstance(value, dict):
        # Two lists under the same key are both read, though the decoder keeps one.
        lists = [inner for inner in value.values() if isinstance(inner, list)]
    if len(lists) == 1 and all(isinstance(row, dict) for row in lists[0]):
        assert len(found) == len(lists[0]) or any(
            "twice" in row.reason for row in found if isinstance(row, Fault)
        )
    else:
        assert any(isinstance(row, Fault) for row in found)


@pytest.mark.parametrize(
    ("document", "line", "said"),
    [
        ('[{"a": "x"},\n {"a" "y"}]', 2, "':' delimiter at column 7"),
        ('[{"a": "x"}, {"þ" "y"}]', 1, "':' delimiter at column 19"),
        ('[{"a": "x"}\n {"a": "y"}]', 2, "`,` or `]` is missing at column 2"),
        ('[{"a": "x"},\n]', 2, "Expecting value at column 1"),
        ('[{"a": "x"}', 1, "`,` or `]` is missing at column 12"),
        ('{"a" [{}]}', 1, "`:` is missing at column 6"),
        ("{a: [{}]}", 1, "a key in double quotes is missing at column 2"),
        ('{"a": [{}]\n', 2, "`,` or `}` is missing at column 1"),
        ("[]\n[]", 2, "extra data at column 1; rename the file to .jsonl"),
        ('{"a": ' + "[" * 501, 1, "nested too deeply"),
    ],
)
def test_what_is_wrong_is_named_where_it_stands(document: str, line: int, said: str) -> None:
    fault = read(document)[-1]
    assert isinstance(fault, Fault)
    assert (fault.line, said in fault.reason) == (line, True), fault


def test_a_faulty_row_does_not_end_the_document() -> None:
    found = read(b'[{"a": "x"},\n{"a": \xff},\n{"a" 1},\n{"a": "y"}]')
    assert [type(row) for row in found] == [ParsedRow, Fault, Fault, ParsedRow]
    assert [row.line for row in found] == [1, 2, 3, 4]


def test_lines_of_json_are_told_before_any_is_read_as_a_list() -> None:
    turns = json.dumps({"messages": [{"role": "user", "content": "a"}] * 9})
    [fault] = read(f"{turns}\n{turns}\n")
    assert isinstance(fault, Fault)
    assert fault.line == 2
    assert "rename the file to .jsonl" in fault.reason
