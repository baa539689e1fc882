"""Fields of training rows are read, refused, or left out and counted."""

import json
from pathlib import Path

import pytest

from telltune.data.examples import Problem
from telltune.data.loaders import read_examples, scan
from telltune.data.prompts import read_prompts
from telltune.data.report import ReadReport
from telltune.errors import DataError
from telltune.proposal.survey import survey
from telltune.recipe import Columns, DataSpec

CASES = Path(__file__).parents[1] / "cases" / "unread"


@pytest.fixture
def read():
    def read(name):
        report = ReadReport()
        examples = read_examples([DataSpec(path=str(CASES / name))], report)
        assert report.unread == {}
        return examples, report

    return read


def test_context_is_part_of_the_prompt(read):
    ((example,), _) = read("context.jsonl")
    assert example.prompt == "When does the shop open?\n\nOpening hours: 8 to 18."
    assert example.completion == "At 8."


def test_history_beside_flat_keys_is_earlier_turns(read):
    ((example,), _) = read("history.jsonl")
    assert example.prompt == "And in winter?"
    assert example.history == (("user", "When do you open in summer?"), ("assistant", "At 8."))


def test_tools_are_kept_as_json_text(read):
    ((example,), _) = read("tools.jsonl")
    function = {"name": "weather", "parameters": {}}
    assert json.loads(example.tools) == [{"type": "function", "function": function}]


def test_reasoning_of_the_answer_is_kept(read):
    ((example,), _) = read("thinking.jsonl")
    assert (example.completion, example.reasoning) == ("56", "7 x 8 is 56.")


def test_answer_of_weight_zero_is_not_learned_and_counted(read):
    ((example,), report) = read("weight.jsonl")
    assert (example.prompt, example.completion) == ("Hi?", "Hello!")
    assert example.history == (("user", "Hi"), ("assistant", "go away"))
    (group,) = report.left_out
    assert str(group).endswith("weight.jsonl:1: the answer in turn 2 has `weight: 0`")


def test_answer_marked_false_is_left_out_and_nothing_else_is_there():
    report = ReadReport()
    (problem,) = scan(DataSpec(path=str(CASES / "kto.jsonl")), report)
    assert isinstance(problem, Problem)
    assert problem.reason == "every row is left out (1 of 1): no examples remain"
    (group,) = report.left_out
    assert group.first.reason == "the row has `label: false`, which marks a bad answer"


@pytest.fixture
def document(tmp_path):
    """Return a function that writes rows and what is beside them into one JSON document."""

    def document(rows, **beside):
        path = tmp_path / "a.json"
        path.write_text(json.dumps({**beside, "data": rows}))
        return path

    return document


ROWS = [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]


def test_keys_beside_the_list_of_rows_are_named(document):
    report = ReadReport()
    path = document(ROWS, version="1.0", name="x", features={"a": 1}, instruction="")
    assert len(read_examples([DataSpec(path=str(path))], report)) == 2
    assert report.unread == {"version": 2, "name": 2, "features": 2}


@pytest.mark.parametrize(
    "key", ["instruction", "system", "prompt", "context", "question", "Instruction", "image"]
)
def test_what_every_row_asks_is_not_read_beside_the_list(document, key):
    path = document(ROWS, **{"version": "1.0", key: "Classify."})
    said = f"`{key}` beside the list of rows would not be read: copy the content into each row"
    with pytest.raises(DataError, match=said):
        read_examples([DataSpec(path=str(path))])
    with pytest.raises(DataError, match=said):
        read_prompts(path)
    with pytest.raises(DataError, match=said):
        survey([str(path)])
    report, columns = ReadReport(), Columns(prompt="input", completion="output")
    assert len(read_examples([DataSpec(path=str(path), columns=columns)], report)) == 2
    assert report.unread == {"version": 2, key: 2}


def test_no_guess_leaves_out_what_is_beside_the_list(document):
    path = document([{"frage": f"text {n}", "art": "ab"[n % 2]} for n in range(8)], system="s")
    with pytest.raises(DataError, match="`frage` and `art` would leave out `system`"):
        survey([str(path)])
