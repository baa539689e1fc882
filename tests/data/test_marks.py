"""Answers that rows mark as not to be trained on are left out, and unclear marks are refused."""

import pytest

from telltune.data.fields import Fields, RowRefusedError
from telltune.data.schemas import find_schema

ASKED = {"role": "user", "content": "p"}
BETTER, WORSE = ({"role": "assistant", "content": text} for text in ("+", "-"))
TURNS = [ASKED, BETTER]


def read(values):
    fields = Fields(values)
    return find_schema(values).read(fields, source="s", origin="s:1"), fields


def refusal_of(values):
    with pytest.raises(RowRefusedError) as refusal:
        read(values)
    return str(refusal.value)


@pytest.mark.parametrize(
    "row", [{"instruction": "p", "output": "c"}, {"text": "p", "label": "c"}, {"messages": TURNS}]
)
def test_kto_tag_of_llama_factory_marks_good_and_bad_answers(row):
    examples, fields = read(row | {"kto_tag": False})
    assert (examples, fields.unread()) == ([], set())
    assert fields.left_out == ["the row has `kto_tag: false`, which marks a bad answer"]
    examples, fields = read(row | {"kto_tag": True})
    assert (len(examples), fields.unread()) == (1, set())


@pytest.mark.parametrize("key", ["train_detail", "loss_scale", "mask"])
def test_loss_on_a_part_of_an_answer_is_refused(key):
    reason = refusal_of({"messages": [ASKED, BETTER | {key: [0.5]}]})
    assert reason.startswith(f"turn 2 has `{key}`, but telltune trains on whole answers")


@pytest.mark.parametrize(
    ("row", "way"),
    [
        ({"prompt": "p"}, "set in the recipe: `columns: {prompt: prompt, completion: chosen}`"),
        ({"instruction": "i", "input": "x"}, "rename `chosen` to `output`"),
        ({"question": "q"}, "rename `chosen` to `answer`"),
        ({"conversations": [ASKED]}, "write each conversation with its better answer under"),
        ({}, "write each conversation with its better answer under `messages`"),
    ],
)
def test_preference_pairs_are_refused_with_a_way_to_keep_the_better_answer(row, way):
    reason = refusal_of(row | {"chosen": "+", "rejected": "-"})
    assert reason.startswith("the keys `chosen` and `rejected` are preference data, which telltune")
    assert f"; to train on the better answers, {way}" in reason


def test_the_named_way_reads_the_better_answer():
    row = {"instruction": "i", "input": "x", "chosen": "+", "rejected": "-"}
    (example,), fields = read({"output" if k == "chosen" else k: v for k, v in row.items()})
    assert (example.prompt, example.completion) == ("i\n\nx", "+")
    assert fields.unread() == {"rejected"}


def test_preference_pairs_of_openai_are_refused():
    asked = {"messages": [ASKED], "parallel_tool_calls": True}
    row = {"input": asked, "preferred_output": [BETTER], "non_preferred_output": [WORSE]}
    assert "`preferred_output` and `non_preferred_output` are preference data" in refusal_of(row)


def test_a_whole_conversation_beside_preference_pairs_is_read():
    (example,), fields = read({"messages": [ASKED, BETTER], "chosen": "+", "rejected": "-"})
    assert example.completion == "+"
    assert fields.unread() == {"chosen", "rejected"}
