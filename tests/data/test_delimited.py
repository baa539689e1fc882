"""CSV and TSV files are read back as they were written, and ambiguous ones are refused."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.data import delimited
from telltune.data.examples import Problem
from telltune.data.formats import read_rows
from telltune.data.loaders import read_examples, scan
from telltune.data.parsed_row import ParsedRow
from telltune.errors import DataError
from telltune.recipe import DataSpec

CASES = Path(__file__).parents[1] / "cases" / "tsv"
texts = st.text(st.characters(exclude_categories=["Cs"]))
tables = st.lists(st.tuples(texts, texts), min_size=1, max_size=5)
plain = st.text('ab" ,;|', min_size=1).filter(str.strip)


def rows_of(path: Path, content: str, quoting: Any = "auto") -> list[ParsedRow | Problem]:
    path.write_bytes(content.encode())
    return list(read_rows(path, quoting))


def values_of(rows: list[ParsedRow | Problem]) -> list[Any]:
    return [row.values if isinstance(row, ParsedRow) else row for row in rows]


def test_rows_of_many_lines_carry_the_line_they_begin_on(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "a.csv", 'p,c\n"one\ntwo","say ""hi"", twice"\n\nthree,four\n')
    assert rows == [
        ParsedRow(2, {"p": "one\ntwo", "c": 'say "hi", twice'}),
        ParsedRow(5, {"p": "three", "c": "four"}),
    ]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_separator_of_csv_is_found_in_its_header(tmp_path: Path, mark: str) -> None:
    rows = rows_of(tmp_path / "a.csv", f"p{mark}c\n1{mark}x\n")
    assert rows == [ParsedRow(2, {"p": "1", "c": "x"})]
    rows = rows_of(tmp_path / "a.csv", f'"p, q"{mark}c\n1{mark}x\n')
    assert rows == [ParsedRow(2, {"p, q": "1", "c": "x"})]


@pytest.mark.parametrize(
    ("header", "row", "wanted"),
    [
        ("Text;Team;Betrag, EUR", "Hallo;aaaa;30,50", ["Hallo", "aaaa", "30,50"]),
        ("Text;Betrag, EUR", "Hallo, Welt, du;30", ["Hallo, Welt, du", "30"]),
        ("Text|Label (a;b)", "one, two|a", ["one, two", "a"]),
        ("Text\tLabel, team", '"one\tand, two"\ta', ["one\tand, two", "a"]),
        ("text,notes; tags,label", "one,x;y,a", ["one", "x;y", "a"]),
        ("text,label (a;b)", "one;two,a", ["one;two", "a"]),
        ("text,label (a;b)", "one;two,", ["one;two", ""]),
    ],
)
@pytest.mark.parametrize("before", ["", "\n"])
@pytest.mark.parametrize("count", [1, 3, 30_000])
def test_separators_are_compared_on_the_first_rows(
    tmp_path: Path, header: str, row: str, wanted: list[str], before: str, count: int
) -> None:
    rows = rows_of(tmp_path / "a.csv", f"{before}{header}\n" + f"{row}\n" * count)
    assert [list(values.values()) for values in values_of(rows)] == [wanted] * count


def test_a_header_without_rows_is_an_empty_table(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "a.csv", "text,label (a;b)\n") == []


@pytest.mark.parametrize("line", ["sep=;", "SEP=;\r", '"sep=;"', "\ufeffsep=;"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_excels_line_names_the_separator_and_is_no_header(
    tmp_path: Path, name: str, line: str
) -> None:
    rows = rows_of(tmp_path / name, f"{line}\np;c,d\n1,5;x\n")
    assert rows == [ParsedRow(3, {"p": "1,5", "c,d": "x"})]


def test_a_cell_may_be_longer_than_the_csv_module_allows_by_default(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path / "a.csv", "p,c\n" + "x" * 300_000 + ",y\n")
    assert isinstance(row, ParsedRow)
    assert len(str(row.values["p"])) == 300_000


@pytest.mark.parametrize("quoting", ["auto", "none"])
@pytest.mark.parametrize(("record", "hint"), [("one", "write one"), ("one,two,three", "quote")])
def test_a_row_with_another_number_of_cells_is_a_problem(
    tmp_path: Path, record: str, hint: str, quoting: str
) -> None:
    problem, row = rows_of(tmp_path / "a.csv", f"p,c\n{record}\na,b\n", quoting)
    assert isinstance(problem, Problem)
    assert (problem.line, row.line) == (2, 3)
    assert "cells, but the header has 2" in problem.reason
    assert hint in problem.reason


def test_separators_at_the_end_of_lines_are_no_cells(tmp_path: Path) -> None:
    wanted = [ParsedRow(2, {"p": "a", "c": "b"})]
    assert rows_of(tmp_path / "a.csv", "p,c\na,b,,\n") == wanted
    assert rows_of(tmp_path / "a.csv", "p,c,,\na,b\n") == wanted
    assert rows_of(tmp_path / "a.csv", "p,c,,\na,b,,\n") == wanted


def test_a_column_without_a_name_keeps_what_it_holds(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "a.csv", ",p,c,\n0,a,b,\n1,d,e,x\n")
    assert values_of(rows) == [
        {"column 1": "0", "p": "a", "c": "b"},
        {"column 1": "1", "p": "d", "c": "e", "column 4": "x"},
    ]


@pytest.mark.parametrize("quoting", ["auto", "none"])
def test_blank_lines_are_no_rows(tmp_path: Path, quoting: str) -> None:
    rows = rows_of(tmp_path / "a.csv", "\n \r\np,c\r\n\r\n   \na,b\r\n\n", quoting)
    assert rows == [ParsedRow(6, {"p": "a", "c": "b"})]


def test_a_quote_that_never_closes_is_a_problem_that_names_its_lines(tmp_path: Path) -> None:
    row, problem = rows_of(tmp_path / "a.csv", 'p,c\na,b\nx,"y\nz,w\n')
    assert row == ParsedRow(2, {"p": "a", "c": "b"})
    assert isinstance(problem, Problem)
    assert problem.line == 3
    assert "the row (lines 3 to 4) has invalid quoting" in problem.reason
    assert "`quoting: none`" in problem.reason


def test_a_record_over_the_longest_length_ends_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "MAX_ROW_BYTES", 100)
    # Each line closes a cell and opens the next: no cell is long, but the record never ends.
    row, problem = rows_of(tmp_path / "a.csv", 'p,c\na,b\n"x' + '\n","' * 1000)
    assert row == ParsedRow(2, {"p": "a", "c": "b"})
    assert isinstance(problem, Problem)
    assert problem.line == 3
    assert "close an open quote" in problem.reason


def test_a_header_in_the_middle_of_joined_files_is_refused_by_line(tmp_path: Path) -> None:
    one, again, two = rows_of(tmp_path / "a.csv", "p,c\none,two\np,c\nthree,four\n")
    assert values_of([one, two]) == [{"p": "one", "c": "two"}, {"p": "three", "c": "four"}]
    assert again == Problem(str(tmp_path / "a.csv"), 3, "the line repeats the header: delete it")


@pytest.mark.parametrize(
    "again",
    ["\ufeffp,c", '\ufeff"p","c"', "P,C", "p, c", " p ,c ", "p,c,", "\ufeffp,c\r"],
)
@pytest.mark.parametrize("header", ["p,c", "P, C", "p,c,", '"p","c"'])
@pytest.mark.parametrize("quoting", ["auto", "none"])
def test_a_repeated_header_may_be_written_in_another_way(
    tmp_path: Path, header: str, again: str, quoting: str
) -> None:
    one, fault, two = rows_of(tmp_path / "a.csv", f"{header}\na,x\n{again}\nb,y\n", quoting)
    assert [list(values.values()) for values in values_of([one, two])] == [["a", "x"], ["b", "y"]]
    assert isinstance(fault, Problem)
    assert (fault.line, fault.reason) == (3, "the line repeats the header: delete it")


def test_a_row_that_shares_a_part_of_the_header_is_a_row(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "a.csv", "text,label\nText,x\n")
    assert values_of(rows) == [{"text": "Text", "label": "x"}]


@pytest.mark.parametrize(
    ("header", "said"), [("p,p", "`p` twice"), (",,", "no column names"), ('"p', "unreadable")]
)
def test_a_header_that_names_no_columns_is_a_problem(
    tmp_path: Path, header: str, said: str
) -> None:
    (problem,) = rows_of(tmp_path / "a.csv", f"{header}\na,b\n")
    assert isinstance(problem, Problem)
    assert said in problem.reason


@pytest.mark.parametrize("quoting", ["auto", "none"])
def test_a_carriage_return_alone_is_named(tmp_path: Path, quoting: str) -> None:
    (problem,) = rows_of(tmp_path / "a.csv", "p,c\ra,b\r", quoting)
    assert isinstance(problem, Problem)
    assert "bare carriage return" in problem.reason


# Quotes


def test_quotes_that_swallow_rows_are_refused_by_line() -> None:
    problem, example = scan(DataSpec(path=str(CASES / "quotes.tsv")))
    assert isinstance(problem, Problem)
    assert problem.line == 2
    assert "continues to line 4, and its lines look like rows of their own" in problem.reason
    assert not isinstance(example, Problem)
    assert (example.prompt, example.completion) == ("so so", "neg")


def test_quotes_are_ordinary_characters_where_the_recipe_says_so() -> None:
    examples = read_examples([DataSpec(path=str(CASES / "quotes.tsv"), quoting="none")])
    assert [(e.prompt, e.completion) for e in examples] == [
        ('"Great film', "pos"),
        ("really bad", "neg"),
        ('I loved it"', "pos"),
        ("so so", "neg"),
    ]
    (row, _) = read_examples([DataSpec(path=str(CASES / "quotes.tsv"), quoting="minimal")])
    assert row.prompt == "Great film\tpos\nreally bad\tneg\nI loved it"


@pytest.mark.parametrize(
    "swallowed",
    [
        '"a,x\nb,y\nc",x\n',
        '1,"a\n2,b\n3,c"\n',  # the second column
        '"a,x\n' + "b,y\n" * 300 + 'c",x\n',
        '"a,x\nb,y\nc, and more,z\nd,y\ne",x\n',  # one of the rows is faulty, too
        '"a,x\r\nb,y\r\nc",x\r\n',
    ],
)
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_lines_that_look_like_rows_are_refused(tmp_path: Path, mark: str, swallowed: str) -> None:
    content = f"p,c\n{swallowed}z,y\n".replace(",", mark)
    problem, row = rows_of(tmp_path / ("a.tsv" if mark == "\t" else "a.csv"), content)
    assert isinstance(problem, Problem)
    assert problem.line == 2
    assert "look like rows of their own" in problem.reason
    assert isinstance(row, ParsedRow)


def test_a_header_may_show_that_spaces_follow_separators(tmp_path: Path) -> None:
    problem, _ = rows_of(tmp_path / "a.csv", 'p, c\n"a, x\nb, y\nc", x\nd, y\n')
    assert isinstance(problem, Problem)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_rows_with_an_empty_cell_look_like_rows(tmp_path: Path, mark: str) -> None:
    content = '"Great movie,pos,\nBad,neg,\nAwful",neg,\nFine,pos,x\n'
    name = "a.tsv" if mark == "\t" else "a.csv"
    problem, row = rows_of(tmp_path / name, f"text,label,note\n{content}".replace(",", mark))
    assert isinstance(problem, Problem)
    assert problem.line == 2
    assert "continues to line 4, and its lines look like rows" in problem.reason
    assert values_of([row]) == [{"text": "Fine", "label": "pos", "note": "x"}]


@pytest.mark.parametrize("quoting", ["auto", "minimal"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_spaces_after_separators_are_read_as_the_header_has_them(
    tmp_path: Path, mark: str, quoting: str
) -> None:
    name = "a.tsv" if mark == "\t" else "a.csv"
    content = '"Hello, there", "good"\nBye, bad\n"x","y"\n'
    for header in ("text, label", '"text", "label"'):
        rows = rows_of(tmp_path / name, f"{header}\n{content}".replace(",", mark), quoting)
        assert [list(values.items()) for values in values_of(rows)] == [
            [("text", f"Hello{mark} there"), ("label", "good")],
            [("text", "Bye"), ("label", "bad")],
            [("text", "x"), ("label", "y")],
        ]


@pytest.mark.parametrize("record", ['a, "b"', ' "a",b', '"a",  "b"', 'a, "b ""c"""'])
@pytest.mark.parametrize("quoting", ["auto", "minimal"])
def test_a_quote_after_a_space_is_refused_by_line(
    tmp_path: Path, record: str, quoting: str
) -> None:
    problem, row = rows_of(tmp_path / "a.csv", f"text,label\n{record}\nx, y\n", quoting)
    assert isinstance(problem, Problem)
    assert (problem.line, "a quote follows a space" in problem.reason) == (2, True)
    assert values_of([row]) == [{"text": "x", "label": " y"}]
    assert isinstance(rows_of(tmp_path / "a.csv", f"text,label\n{record}\n", "none")[0], ParsedRow)


@pytest.mark.parametrize(
    ("record", "cells"),
    [
        ('he said\t "no" to it', ["he said", ' "no" to it']),
        ('"a, ""b"", c"\tx', ['a, "b", c', "x"]),
        ('" ""a"""\tx', [' "a"', "x"]),
        ('"a\t ""b"""\tx', ['a\t "b"', "x"]),
    ],
)
def test_a_quote_inside_of_a_cell_is_a_character(
    tmp_path: Path, record: str, cells: list[str]
) -> None:
    rows = rows_of(tmp_path / "a.tsv", f"text\tlabel\n{record}\n")
    assert [list(values.values()) for values in values_of(rows)] == [cells]


@pytest.mark.parametrize(
    "cell",
    [
        "Dear team,\nmy parcel, number 3, is late.\nThanks, Bo",
        "Hello, I am late\nThanks",
        "Dear team,\nThanks",
        "one\ntwo\nthree",
        '{\n  "a": 1,\n  "b": 2\n}',
        "- a, b\n- c, d\n- e",
    ],
)
def test_prose_of_many_lines_is_a_cell(tmp_path: Path, cell: str) -> None:
    stream = io.StringIO()
    csv.writer(stream).writerows([("p", "c"), (cell, "shipping"), ("x", "y")])
    rows = rows_of(tmp_path / "a.csv", stream.getvalue())
    assert values_of(rows) == [{"p": cell, "c": "shipping"}, {"p": "x", "c": "y"}]


@settings(max_examples=60)
@given(table=st.lists(st.tuples(plain, plain), min_size=1, max_size=5))
def test_without_quoting_any_text_is_itself(tmp_path: Path, table: Any) -> None:
    content = "".join(f"{p}\t{c}\n" for p, c in [("p", "c"), *table])
    rows = rows_of(tmp_path / "a.tsv", content, "none")
    assert [(v["p"], v["c"]) for v in values_of(rows)] == table


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@settings(max_examples=60)
@given(table=tables, ends=st.sampled_from(["\n", "\r\n"]), bom=st.booleans())
def test_what_writers_write_is_read_back_or_refused(
    tmp_path: Path, name: str, table: Any, ends: str, bom: bool
) -> None:
    # pandas leaves a carriage return in an unquoted cell, which no reader can detect.
    table = [tuple(cell.replace("\r", "") for cell in row) for row in table]
    path, mark = tmp_path / name, "," if name == "a.csv" else "\t"
    frame = pd.DataFrame(table, columns=["p", "c"])
    frame.to_csv(
        path, sep=mark, index=False, lineterminator=ends, encoding="utf-8-sig" if bom else "utf-8"
    )
    read = values_of(list(read_rows(path, "minimal")))
    assert [(row["p"], row["c"]) for row in read] == table
    for sure, row in zip(read, values_of(list(read_rows(path))), strict=True):
        if isinstance(row, Problem):
            assert "look like rows of their own" in row.reason
            assert "\n" in sure["p"] + sure["c"]
        else:
            assert row == sure


def test_quoting_of_other_formats_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(DataError, match="neither CSV nor TSV"):
        read_examples([DataSpec(path=str(tmp_path), quoting="none")])
