import pytest

from telltune.data.examples import Example, Message
from telltune.data.schemas import RowRefusedError, find_schema
from telltune.recipe import Columns


def examples_of(values, columns=None):
    return find_schema(values, columns).examples(values, source="s", origin="s.jsonl:1")


def refusal_of(values, columns=None):
    with pytest.raises(RowRefusedError) as refusal:
        examples_of(values, columns)
    return str(refusal.value)


def openai(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("prompt_key", "completion_key"),
    [
        ("prompt", "completion"),
        ("prompt", "response"),
        ("query", "response"),
        ("question", "answer"),
        ("input", "output"),
        ("instruction", "output"),
    ],
)
def test_flat_schemas_are_known_by_their_keys(prompt_key, completion_key):
    values = {"id": 7, prompt_key: " Who? ", completion_key: "Ada\n"}
    assert examples_of(values) == [Example(" Who? ", "Ada\n", "s", "s.jsonl:1")]


def test_system_text_goes_into_the_history():
    (example,) = examples_of({"prompt": "p", "completion": "c", "system": "Be brief."})
    assert example.history == (Message("system", "Be brief."),)


def test_alpaca_input_follows_the_instruction():
    values = {"instruction": "Add.", "input": "1 2", "output": "3"}
    assert examples_of(values)[0].prompt == "Add.\n\n1 2"
    assert examples_of(values | {"input": ""})[0].prompt == "Add."


def test_alpaca_history_comes_between_system_and_prompt():
    values = {"instruction": "p", "output": "c", "system": "s", "history": [["q", "a"]]}
    (example,) = examples_of(values)
    assert example.history == (("system", "s"), ("user", "q"), ("assistant", "a"))


@pytest.mark.parametrize("history", ["text", [["q"]], [["q", "a", "b"]], [["q", None]], [3]])
def test_alpaca_history_that_is_no_list_of_pairs_is_refused(history):
    assert "history" in refusal_of({"instruction": "p", "output": "c", "history": history})


def test_every_assistant_turn_is_an_example_with_the_turns_before_it():
    turns = [("system", "s"), ("user", "1"), ("assistant", "a"), ("user", "2"), ("assistant", "b")]
    first, second = examples_of(openai(*turns))
    assert (first.prompt, first.completion, first.history) == ("1", "a", (("system", "s"),))
    assert (second.prompt, second.completion, second.history) == ("2", "b", tuple(turns[:3]))


def test_sharegpt_roles_are_read_as_ours():
    turns = [("system", "s"), ("human", "p"), ("gpt", "c")]
    values = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    (example,) = examples_of(values)
    assert (example.prompt, example.completion) == ("p", "c")
    assert example.history == (("system", "s"),)


def test_system_key_beside_a_conversation_opens_it():
    values = openai(("user", "p"), ("assistant", "c"))
    assert examples_of(values | {"system": "s"})[0].history == (("system", "s"),)
    assert examples_of(values | {"system": None})[0].history == ()


def test_conversation_is_preferred_to_the_flat_keys_beside_it():
    values = openai(("user", "p"), ("assistant", "c")) | {"prompt": "x", "completion": "y"}
    assert examples_of(values)[0].prompt == "p"


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([("assistant", "c")], "turn 1 is from `assistant`"),
        ([("user", "p"), ("user", "p")], "turn 2 is from `user`"),
        ([("user", "p"), ("system", "s"), ("assistant", "c")], "turn 2 is from `system`"),
        ([("system", "s"), ("assistant", "c")], "turn 2 is from `assistant`"),
        ([("user", "p")], "does not end with an assistant turn"),
        ([("system", "s")], "does not end with an assistant turn"),
        ([("system", "")], "holds no turn with text"),
        ([("user", "p"), ("tool", "{}")], "turn 2 has role `tool`, which telltune does not train"),
        ([("user", "p"), (["x"], "c")], "turn 2 has role"),
        ([("user", "p"), ("assistant", None)], r"no text in turn 2 \(assistant\)"),
        ([("user", ["p"]), ("assistant", "c")], "key `content` holds a list"),
        ([], "key `messages` is missing, empty"),
    ],
)
def test_conversation_out_of_order_is_refused_by_turn(turns, reason):
    with pytest.raises(RowRefusedError, match=reason):
        examples_of(openai(*turns))


def test_tool_call_is_refused_even_with_text():
    values = openai(("user", "p"), ("assistant", "c"))
    values["messages"][1]["tool_calls"] = [{"id": "1"}]
    assert "turn 2 has a tool call" in refusal_of(values)


def test_turn_that_is_no_object_is_refused():
    assert "turn 1 in key `messages` is not an object" in refusal_of({"messages": ["hi"]})


@pytest.mark.parametrize("blank", [None, "", " \n\t", float("nan")])
def test_blank_prompt_or_response_is_refused(blank):
    assert refusal_of({"prompt": "p", "completion": blank}) == (
        "no response: key `completion` is empty"
    )
    assert refusal_of({"prompt": blank, "completion": "c"}) == "no prompt: key `prompt` is empty"


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (3, "3"), (0.5, "0.5"), (0, "0")])
def test_numbers_and_truth_values_become_text(value, text):
    assert examples_of({"prompt": "p", "completion": value})[0].completion == text


@pytest.mark.parametrize("value", [["c"], {"c": 1}, b"c"])
def test_what_is_no_text_is_refused(value):
    assert "not a text" in refusal_of({"prompt": "p", "completion": value})


def test_lone_surrogate_is_refused_with_its_place():
    reason = refusal_of({"prompt": "ab\ud800", "completion": "c"})
    assert "lone surrogate" in reason
    assert "character 3" in reason


def test_unknown_keys_are_named_with_the_way_out():
    reason = refusal_of({"utterance": "p", "team": "c"})
    assert "`utterance`, `team`" in reason
    assert "prompt/completion" in reason
    assert "columns: {prompt: ..., completion: ...}" in reason


def test_hostile_keys_stay_short_and_printable():
    reason = refusal_of({f"\ud800\n\x1b[31m{'k' * 1000}{n}": 1 for n in range(100)})
    assert reason.isprintable()
    assert len(reason) < 2000
    assert "88 more" in reason


def test_two_fitting_schemas_are_refused_rather_than_guessed():
    values = {"prompt": "p", "completion": "c", "response": "r"}
    assert "fit both prompt/completion and prompt/response" in refusal_of(values)


def test_null_columns_do_not_make_a_schema_ambiguous():
    values = {"prompt": "p", "completion": "c", "response": None}
    assert examples_of(values)[0].completion == "c"


def test_columns_override_detection():
    values = {"prompt": "p", "completion": "c", "ticket": "t", "team": "x", "role": "s"}
    columns = Columns(prompt="ticket", completion="team", system="role")
    (example,) = examples_of(values, columns)
    assert (example.prompt, example.completion) == ("t", "x")
    assert example.history == (("system", "s"),)


def test_system_key_is_left_alone_where_columns_do_not_name_it():
    values = {"a": "p", "b": "c", "system": "s"}
    assert examples_of(values, Columns(prompt="a", completion="b"))[0].history == ()


def test_missing_column_suggests_the_nearest():
    reason = refusal_of({"ticket": "t", "team": "x"}, Columns(prompt="tickets", completion="team"))
    assert reason == "no column `tickets`, which the recipe names; did you mean `ticket`?"
