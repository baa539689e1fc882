"""`tell predict` in a pipe, and answers as CSV."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

import telltune
from telltune.cli import app

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def fitted(toy_recipe: dict[str, Any], tmp_path: Path) -> str:
    folder = tmp_path / "fitted"
    telltune.fit(toy_recipe | {"method": "tfidf_linear"}, folder, progress=False)
    return str(folder)


def test_no_file_that_is_read_is_replaced(
    fitted: str, toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"prompt": "item 3 is round"}\n')
    tell = f"{fitted}/tell.json"
    commands = [("predict", fitted, "--file", str(asked), "--out", to) for to in (str(asked), tell)]
    task = toy_recipe["task"]
    commands += [
        ("evaluate", fitted, "--predictions", to) for to in (task["test"], task["train"], tell)
    ]
    for to in ("inputs.jsonl", "labeled.jsonl"):
        (tmp_path / to).write_text('{"prompt": "a", "completion": "b"}\n')
        commands.append(("pick", "inputs.jsonl", "--labeled", "labeled.jsonl", "--out", to))
    for command in commands:
        before = (tmp_path / command[-1]).read_text()
        words = [str(tmp_path / word) if word.endswith(".jsonl") else word for word in command]
        ran = CliRunner().invoke(app, words)
        assert "is read by this command and would be replaced" in str(ran.exception), command
        assert (tmp_path / command[-1]).read_text() == before


def run(*words: str, given: str | None = None) -> Any:
    return CliRunner().invoke(app, ["predict", *words], input=given)


@pytest.mark.parametrize("words", [("-",), ("--file", "-"), ("-", "--out", "-")])
def test_texts_and_rows_come_from_standard_input(fitted: str, words: tuple[str, ...]) -> None:
    given = 'item 3 is round\n\n{"prompt": "item 4 is square", "id": 7}\n'
    ran = run(fitted, *words, given=given)
    assert ran.exit_code == 0, ran.output
    assert [json.loads(line) for line in ran.stdout.splitlines()] == [
        {"prompt": "item 3 is round", "prediction": "ball"},
        {"prompt": "item 4 is square", "id": 7, "prediction": "box"},
    ]


def test_rows_are_csv_if_asked(fitted: str, tmp_path: Path) -> None:
    given = 'item 3 is round\nitem 4 is "square"\n'
    rows = [["prompt", "prediction"], ["item 3 is round", "ball"], ['item 4 is "square"', "box"]]
    ran = run(fitted, "-", "--format", "csv", given=given)
    assert list(csv.reader(io.StringIO(ran.stdout))) == rows
    run(fitted, "-", "--out", str(tmp_path / "out.csv"), given=given)
    assert list(csv.reader((tmp_path / "out.csv").open(encoding="utf-8"))) == rows


def test_evaluate_writes_answers_as_csv(fitted: str, tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    ran = CliRunner().invoke(app, ["evaluate", fitted, "--predictions", str(out), "-q"])
    assert ran.exit_code == 0, ran.output
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert len(rows) == 12
    assert rows[0]["prediction"] == rows[0]["reference"]
    assert rows[0]["accuracy"] == "100.0"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "standard input contains no rows: add at least one prompt."),
        ('item 3\n{"prompt": \n', "standard input:2: not JSON"),
        ('{"completion": "a"}\n', "standard input:1: the keys `completion` match no supported"),
    ],
)
def test_other_input_is_refused(fitted: str, given: str, message: str) -> None:
    ran = run(fitted, "-", given=given)
    assert isinstance(ran.exception, telltune.TellError)
    assert str(ran.exception).startswith(message)
    assert ran.stdout == ""
