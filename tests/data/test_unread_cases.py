"""Fields of training rows are read, refused, or left out and counted."""

import json
from pathlib import Path

import pytest

from telltune.data.examples import Problem
from telltune.data.loaders import read_examples, scan
from telltune.data.report import ReadReport
from telltune.recipe import DataSpec

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
