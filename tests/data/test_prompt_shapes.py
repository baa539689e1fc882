"""Rows to answer are read in every schema of training data, with and without an answer."""

import json

import pytest

from telltune.data.prompts import read_prompts
from telltune.data.schemas import CONTEXTS, SCHEMAS
from telltune.errors import DataError


@pytest.fixture
def prompt_of(tmp_path):
    def prompt_of(row):
        path = tmp_path / "in.jsonl"
        path.write_text(json.dumps(row))
        ((_, example),) = read_prompts(path)
        return example

    return prompt_of


@pytest.mark.parametrize(
    "schema", [schema for schema in SCHEMAS if schema.answer_key], ids=lambda schema: schema.name
)
def test_the_answer_may_be_missing_in_every_flat_schema(schema, prompt_of):
    row = {key: key.upper() for key in schema.keys}
    asked = {key: row[key] for key in schema.keys[:-1]}
    assert prompt_of(asked).prompt == prompt_of(row).prompt
    assert prompt_of(asked | {schema.keys[-1]: None}).prompt == prompt_of(row).prompt


@pytest.mark.parametrize("beside", ["instruction", *CONTEXTS])
@pytest.mark.parametrize(
    "schema", [schema for schema in SCHEMAS if schema.answer_key], ids=lambda schema: schema.name
)
def test_what_training_reads_beside_the_prompt_is_read_without_an_answer(schema, beside, prompt_of):
    row = dict.fromkeys((*schema.keys[:-1], beside), "x") | {schema.keys[0]: "y"}
    answered = row | {schema.keys[-1]: "z"}
    if {"instruction", "response"} <= answered.keys() and "instruction" not in schema.keys:
        with pytest.raises(DataError, match="match both"):
            prompt_of(answered)
    else:
        assert prompt_of(row).prompt == prompt_of(answered).prompt


@pytest.mark.parametrize(
    "row",
    [
        {"question": "p", "answers": {"text": [], "answer_start": []}},
        {"prompt": "p", "completion": {"a": 1}},
    ],
)
def test_an_answer_that_training_would_refuse_is_not_needed(row, prompt_of):
    assert prompt_of(row).prompt == "p"


def test_a_row_that_is_refused_for_another_reason_stays_refused(prompt_of):
    with pytest.raises(DataError, match="key `image` is not empty"):
        prompt_of({"prompt": "p", "image": "a.png"})


def test_an_empty_prompt_is_named(prompt_of):
    with pytest.raises(DataError, match="no prompt: key `text` is empty"):
        prompt_of({"text": "", "label": "a"})


def test_options_are_shown_where_the_answer_is_not_known(prompt_of):
    row = {"question": "Q?", "choices": ["x", "y"], "context": "C."}
    assert prompt_of(row).prompt == "Q?\n\nC.\n\nA. x\nB. y"


def test_what_is_not_to_be_learned_can_be_answered(prompt_of):
    assert prompt_of({"prompt": "p", "completion": "c", "label": False}).prompt == "p"
    turns = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c", "weight": 0}]
    assert prompt_of({"messages": turns}).prompt == "p"


def test_roles_as_keys_are_answered_at_their_end(prompt_of):
    turns = [{"human": "a", "assistant": "b"}, {"human": "p"}]
    example = prompt_of({"conversation": turns})
    assert (example.prompt, example.history) == ("p", (("user", "a"), ("assistant", "b")))


def test_roles_as_keys_without_text_are_refused(prompt_of):
    with pytest.raises(DataError, match=r"in\.jsonl:1: no conversation: .* no turn with text"):
        prompt_of({"messages": [{"human": None}]})


def test_conversation_of_any_roles_is_answered_at_its_end(prompt_of):
    turns = [{"from": "Human", "value": "p"}]
    assert prompt_of({"conversations": turns}).prompt == "p"
