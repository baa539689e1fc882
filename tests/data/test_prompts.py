"""Rows to answer are read from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from telltune.data.prompts import read_prompts
from telltune.data.report import ReadReport
from telltune.errors import DataError
from telltune.recipe import Columns, DataSpec

CASES = Path(__file__).parents[1] / "cases"
NAMED = Columns(prompt="text", completion="team", confidence="sure", rationale="why")


def trained_on(path: str = "t.csv", **keys: object) -> list[DataSpec]:
    return [DataSpec.model_validate({"path": path, **keys})]


def prompts(path: Path, **keys: object) -> list[str]:
    return [example.prompt for _, example in read_prompts(path, **keys)]  # type: ignore[arg-type]


def test_columns_are_those_of_the_training_data() -> None:
    new = CASES / "columns" / "new.csv"
    [(values, example)] = read_prompts(new, trained_on=trained_on(columns=NAMED))
    assert values == {"text": "parcel 30 late"}
    assert (example.prompt, example.origin) == ("parcel 30 late", f"{new}:2")
    assert prompts(new, columns=NAMED) == ["parcel 30 late"]


def test_columns_that_are_given_go_before_those_of_the_training_data(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,body\na,b\n")
    given = Columns(prompt="body", completion="none")
    known = trained_on(columns=NAMED)
    assert prompts(tmp_path / "a.csv", columns=given, trained_on=known) == ["b"]


def test_of_several_columns_those_are_used_that_the_file_has(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("body,id\nb,1\n")
    other = Columns(prompt="body", completion="answer")
    known = trained_on(columns=NAMED) + trained_on() + trained_on(columns=other)
    assert prompts(tmp_path / "a.csv", trained_on=known) == ["b"]


def test_a_file_with_the_usual_keys_needs_no_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "text": "c"}\n')
    assert prompts(tmp_path / "a.jsonl", trained_on=trained_on(columns=NAMED)) == ["a", "b"]


@pytest.mark.parametrize(
    ("trained", "read"),
    [
        ({"text": "a", "label": "b", "question": "c"}, "in text"),
        ({"question": "a", "answer": "b", "text": "c"}, "in question"),
    ],
)
def test_where_several_keys_could_be_the_prompt_it_is_that_of_the_training_data(
    trained: dict[str, str], read: str, tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps(trained))
    path = tmp_path / "new.jsonl"
    path.write_text('{"question": "in question", "text": "in text", "id": 1}\n')
    report = ReadReport()
    known = trained_on(str(tmp_path / "train.jsonl"))
    assert prompts(path, trained_on=known, report=report) == [read]
    assert report.unread == {"text" if read == "in question" else "question": 1}
    with pytest.raises(DataError, match=r"match question/answer and text/label: name the prompt's"):
        prompts(path)
    with pytest.raises(DataError, match="match question/answer and text/label"):
        prompts(path, trained_on=trained_on(str(tmp_path / "gone.jsonl")))


def test_the_system_column_is_needed_as_in_training(tmp_path: Path) -> None:
    columns = Columns(prompt="text", completion="team", system="role")
    (tmp_path / "a.csv").write_text("text,role\na,You route.\n")
    [(_, example)] = read_prompts(tmp_path / "a.csv", columns=columns)
    assert [turn.content for turn in example.history] == ["You route."]
    (tmp_path / "a.csv").write_text("text\na\n")
    with pytest.raises(DataError, match="no column `role`"):
        read_prompts(tmp_path / "a.csv", columns=columns)


def test_rows_that_fail_for_one_reason_are_one_line_with_a_count(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("body\n" + "b\n" * 60)
    with pytest.raises(DataError) as error:
        read_prompts(path, trained_on=trained_on(columns=NAMED))
    message = str(error.value)
    assert message.startswith(f"{path}:2: no column `text`, as set in the recipe")
    assert "59 more" in message
    assert len(message) < 300


def test_quotes_mean_what_they_did_in_training_data_of_the_same_format(tmp_path: Path) -> None:
    known = trained_on("train.tsv", quoting="none")
    (tmp_path / "a.tsv").write_text('prompt\n"a" b\n"c"\n')
    assert prompts(tmp_path / "a.tsv", trained_on=known) == ['"a" b', '"c"']
    (tmp_path / "a.csv").write_text('prompt\n"c, d"\n')
    assert prompts(tmp_path / "a.csv", trained_on=known) == ["c, d"]
