import json

import pytest

from telltune.data.examples import Example, Message
from telltune.data.fields import Fields, RowRefusedError
from telltune.data.parsed_row import Number
from telltune.data.schemas import SCHEMAS, find_schema
from telltune.recipe import Columns


def examples_of(values, columns=None):
    return find_schema(values, columns).read(Fields(values), source="s", origin="s.jsonl:1")


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


FLAT = [schema for schema in SCHEMAS if schema.answer_key]


def flat_row(schema):
    return {key: key.upper() for key in schema.keys}


@pytest.mark.parametrize("schema", FLAT, ids=lambda schema: schema.name)
@pytest.mark.parametrize(
    "history",
    [
        [["q", "a"]],
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
    ],
)
def test_history_is_earlier_turns_in_every_flat_schema(schema, history):
    (example,) = examples_of(flat_row(schema) | {"history": history, "system": "s"})
    assert example.history == (("system", "s"), ("user", "q"), ("assistant", "a"))


def test_history_before_a_conversation_is_not_learned():
    values = openai(("user", "p"), ("assistant", "c")) | {"history": [["q", "a"]]}
    (example,) = examples_of(values)
    assert (example.completion, example.history) == ("c", (("user", "q"), ("assistant", "a")))


# Fields that change the meaning of a row, each with a value to search for.
EXTRAS = {
    "instruction": "MARK",
    "input": "MARK",
    "context": "MARK",
    "passage": ["MARK", "more"],
    "document": "MARK",
    "system": "MARK",
    "system_prompt": "MARK",
    "history": [["MARK", "a"]],
    "choices": ["MARK", "x"],
    "options": {"A": "MARK", "B": "x"},
    "tools": [{"name": "MARK"}],
    "functions": [{"name": "MARK"}],
    "reasoning_content": "MARK",
    "thinking": "MARK",
    "weight": 0,
    "label": False,
    "images": ["MARK"],
    "audio": {"path": "MARK"},
    "videos": ["MARK"],
    "topic": "MARK",
    "id": "MARK",
}


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_no_field_is_dropped(schema, extra):
    turns = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]
    row = flat_row(schema) if schema.answer_key else {schema.name: turns}
    if extra in row:
        return
    fields = Fields(row | {extra: EXTRAS[extra]})
    try:
        examples = find_schema(fields.values).read(fields, source="s", origin="s:1")
    except RowRefusedError:
        return
    if not examples:
        assert fields.left_out
    else:
        assert "MARK" in repr(examples) or fields.unread() == {extra}


@pytest.mark.parametrize("blank", [None, "", " ", [], {}, float("nan")])
def test_blank_value_of_any_key_is_nothing_to_report(blank):
    row = {"prompt": "p", "completion": "c"} | dict.fromkeys(EXTRAS, blank)
    fields = Fields(row)
    (example,) = find_schema(row).read(fields, source="s", origin="s.jsonl:1")
    assert example == Example("p", "c", "s", "s.jsonl:1")
    assert (fields.unread(), fields.left_out) == (set(), [])


def test_keys_of_turns_are_named_with_the_list_that_they_stand_in():
    values = openai(("user", "p"), ("assistant", "c"))
    values["messages"][0] |= {"name": "Ada", "weight": None}
    fields = Fields(values)
    find_schema(values).read(fields, source="s", origin="s:1")
    assert fields.unread() == {"messages[].name"}


def test_columns_read_only_what_they_name():
    others = {"context": "c", "weight": 0, "label_text": "x", "thinking": "t", "choices": ["x"]}
    fields = Fields({"ticket": "t", "label": 1} | others)
    columns = Columns(prompt="ticket", completion="label")
    (example,) = find_schema(fields.values, columns).read(fields, source="s", origin="s:1")
    assert (example.prompt, example.completion, example.reasoning) == ("t", "1", "")
    assert fields.unread() == others.keys()


@pytest.mark.parametrize(
    ("tools", "found"),
    [
        ('[{"name": "f", "n": 1.50}]', [{"name": "f", "n": 1.5}]),
        ([{"name": "f", "n": Number("1.50")}], [{"name": "f", "n": 1.5}]),
        ([{"name": "f", "filled by Arrow": None}], [{"name": "f"}]),
    ],
)
def test_tools_are_json_text_with_numbers_as_numbers(tools, found):
    (example,) = examples_of({"prompt": "p", "completion": "c", "tools": tools})
    assert json.loads(example.tools) == found


def test_functions_of_the_older_layout_become_tools():
    (example,) = examples_of({"prompt": "p", "completion": "c", "functions": [{"name": "f"}]})
    assert json.loads(example.tools) == [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    "tools", ["f", "{", '{"name": "f"}', {"name": "f"}, ["f"], [{"f": b"x"}], "[NaN]", 3]
)
def test_tools_that_are_no_list_of_objects_are_refused(tools):
    reason = refusal_of({"prompt": "p", "completion": "c", "tools": tools})
    assert "key `tools` must be a list of objects" in reason


@pytest.mark.parametrize("said", [0, "0", False, "false", 0.0])
def test_row_of_weight_zero_is_left_out(said):
    fields = Fields({"prompt": "p", "completion": "c", "weight": said})
    schema = find_schema(fields.values)
    assert schema.read(fields, source="s", origin="s:1") == []
    assert fields.left_out == ["the row has `weight: 0`"]


@pytest.mark.parametrize("said", [1, "1", True, "true", 1.0])
def test_row_of_weight_one_is_learned(said):
    assert examples_of({"prompt": "p", "completion": "c", "weight": said})[0].completion == "c"


@pytest.mark.parametrize("said", ["accept", "reject", "ignore"])
def test_of_prodigys_rows_the_accepted_ones_are_learned(said):
    fields = Fields({"text": "t", "label": "spam", "answer": said, "_task_hash": 1})
    schema = find_schema(fields.values)
    examples = schema.read(fields, source="s", origin="s:1")
    assert len(examples) == (said == "accept")
    assert len(fields.left_out) == (said != "accept")


@pytest.mark.parametrize("said", [0.5, 2, -1, "heavy", [1]])
def test_other_weights_are_refused(said):
    assert "`weight`" in refusal_of({"prompt": "p", "completion": "c", "weight": said})
    values = openai(("user", "p"), ("assistant", "c"))
    values["messages"][1]["weight"] = said
    assert "`weight`" in refusal_of(values)


@pytest.mark.parametrize("key", ["weight", "loss", "train", "training"])
def test_turn_that_says_so_is_not_learned(key):
    values = openai(("user", "1"), ("assistant", "a"), ("user", "2"), ("assistant", "b"))
    values["messages"][1][key] = False
    values["messages"][3][key] = True
    assert [example.completion for example in examples_of(values)] == ["b"]


@pytest.mark.parametrize("label", [0, 1, "0", Number("1")])
def test_number_as_label_beside_an_answer_is_refused_rather_than_guessed(label):
    reason = refusal_of({"prompt": "p", "completion": "c", "label": label})
    assert "write true or false" in reason


@pytest.mark.parametrize(("label", "answer"), [(False, "false"), (0, 0), ("billing", "Billing")])
def test_label_that_repeats_the_answer_is_not_a_mark(label, answer):
    fields = Fields({"prompt": "p", "completion": answer, "label": label})
    schema = find_schema(fields.values)
    assert len(schema.read(fields, source="s", origin="s:1")) == 1
    assert fields.unread() == {"label"}


@pytest.mark.parametrize("key", ["image", "images", "audio", "video", "videos"])
def test_what_is_no_text_is_refused_in_rows_and_turns(key):
    values = openai(("user", "p"), ("assistant", "c"))
    assert f"`{key}`" in refusal_of(values | {key: ["a.png"]})
    values["messages"][0][key] = ["a.png"]
    assert f"turn 1 has `{key}`" in refusal_of(values)


def test_parts_of_text_are_paragraphs_and_other_parts_are_refused():
    def parts(*kinds):
        return [{"type": kind, "text": kind} for kind in kinds]

    values = openai(("user", parts("text", "input_text")), ("assistant", parts("text")))
    assert examples_of(values)[0].prompt == "text\ninput_text"
    values = openai(("user", parts("text", "image_url")), ("assistant", "c"))
    reason = refusal_of(values)
    assert reason == "turn 1 has a part of type `image_url`, but telltune supports text only"
    values = openai(("user", [{"image": "x.png"}, {"text": "What?"}]), ("assistant", "c"))
    assert "turn 1 has a part of type `image`" in refusal_of(values)


@pytest.mark.parametrize("role_key", ["role", "from"])
@pytest.mark.parametrize("text_key", ["content", "value"])
@pytest.mark.parametrize("user", ["user", "human", "Human", "prompter"])
@pytest.mark.parametrize("model", ["assistant", "gpt", "bot", "ai", "model", "Assistant"])
def test_roles_have_many_names(role_key, text_key, user, model):
    turns = [("developer", "s"), (user, "p"), (model, "c")]
    values = {"conversations": [{role_key: who, text_key: text} for who, text in turns]}
    (example,) = examples_of(values)
    assert (example.prompt, example.completion) == ("p", "c")
    assert example.history == (("system", "s"),)


@pytest.mark.parametrize("who", [("human", "assistant"), ("user", "gpt")])
def test_roles_may_be_the_keys_of_pairs(who):
    pairs = [dict(zip(who, said, strict=True)) for said in (("1", "a"), ("2", "b"))]
    first, second = examples_of({"conversation": pairs})
    assert (first.prompt, first.completion) == ("1", "a")
    assert (second.prompt, second.completion) == ("2", "b")
    assert second.history == (("user", "1"), ("assistant", "a"))


def test_turn_without_a_role_is_refused_with_its_keys():
    reason = refusal_of({"messages": [{"speaker": "a", "text": "b"}]})
    assert reason == "turn 1 has no `role` or `from`: its keys are `speaker`, `text`"


def test_context_beside_a_conversation_is_refused_where_no_turn_holds_it():
    values = openai(("user", "Read: Since 1842. When?"), ("assistant", "1842"))
    assert "`context` is not part of the conversation" in refusal_of(values | {"context": "Other."})
    fields = Fields(values | {"context": "Since 1842."})
    assert find_schema(fields.values).read(fields, source="s", origin="s:1")
    assert fields.unread() == {"context"}


@pytest.mark.parametrize(
    ("choices", "answer"),
    [
        (["x", "y"], 2),
        (["x", "y"], -1),
        (["x", "y"], "z"),
        (["B", "A"], "A"),
        (["x"], 0),
        ("x or y", 0),
        ([["x"], ["y"]], 0),
        ({"text": ["x", "y"], "label": ["A"]}, "A"),
        ({"text": ["x", "y"], "label": ["A", "A"]}, "A"),
        ([f"option {n}" for n in range(27)], 0),
    ],
)
def test_choice_that_is_unclear_is_refused(choices, answer):
    reason = refusal_of({"question": "Q?", "choices": choices, "answer": answer})
    assert "key `choices`" in reason


def test_preferences_beside_a_response_are_refused():
    row = {"prompt": "p", "response": "r", "chosen": "a", "rejected": "b"}
    assert "`chosen` and `rejected` are preference data" in refusal_of(row)
    assert examples_of(row | {"rejected": None})[0].completion == "r"


@pytest.mark.parametrize("said", ["{'text': ['Paris'], 'answer_start': [3]}", '["Paris", "paris"]'])
def test_answers_that_a_csv_file_keeps_as_text_are_refused(said):
    assert "`answers` contains a list" in refusal_of({"question": "Where?", "answers": said})
    assert examples_of({"question": "Where?", "answers": "Paris"})[0].completion == "Paris"


def test_options_with_letters_of_their_own_get_no_second_ones():
    values = {"question": "Q?", "options": ["A) 3", "B) 4"], "answer": "B"}
    assert examples_of(values)[0].prompt == "Q?\n\nA. 3\nB. 4"
    values = {"question": "Q?", "options": ["A. Milne", "B. King"], "answer": "King"}
    assert examples_of(values)[0].completion == "B"


def test_options_that_the_prompt_shows_already_are_not_repeated():
    values = {"prompt": "Q?\n(1) x\n(2) y", "choices": ["x", "y"], "completion": "2"}
    (example,) = examples_of(values)
    assert (example.prompt, example.completion) == (values["prompt"], "2")
    assert examples_of(values | {"completion": Number("1")})[0].completion == "y"


def test_option_that_is_a_number_is_told_from_an_index():
    values = {"question": "1 + 1?", "choices": ["4", "2", "1", "0"]}
    assert examples_of(values | {"answer": Number("2")})[0].completion == "C"
    assert examples_of(values | {"answer": "2"})[0].completion == "B"


def test_an_index_that_may_be_a_text_or_a_label_is_refused():
    row = {"question": "sqrt 4?", "A": "8", "B": "2", "C": "24"}
    assert "matches more than one" in refusal_of(row | {"answer": "2"})
    assert examples_of(row | {"answer": "1"})[0].completion == "B"
    assert examples_of(row | {"answer": "B"})[0].completion == "B"
    labels = {"text": ["x", "y"], "label": ["1", "2"]}
    row = {"question": "Q?", "choices": labels}
    assert [examples_of(row | {"answer": n})[0].completion for n in ("1", "2")] == ["1", "2"]
    assert "matches none" in refusal_of(row | {"answer": Number("0")})


@pytest.mark.parametrize("lead", ["", "(1) ", "A. ", "a) ", "- ", "Option 2: ", "[B] "])
def test_lines_of_options_may_begin_in_several_ways(lead):
    values = {"question": f"Q?\n{lead}1\n{lead}2", "options": ["1", "2"], "answer": "2"}
    assert examples_of(values)[0].prompt == values["question"]


def test_lines_that_only_end_like_options_do_not_show_them():
    values = {"question": "x = 1\ny = 2\nWhich is larger?", "options": ["1", "2"], "answer": "B"}
    (example,) = examples_of(values)
    assert example.prompt.endswith("larger?\n\nA. 1\nB. 2")
    assert example.completion == "B"


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
        ([("system", "")], "contains no turn with text"),
        ([("user", "p"), ("tool", "{}")], "turn 2 has role `tool`, which telltune does not"),
        ([("user", "p"), (["x"], "c")], "turn 2 has role"),
        ([("user", "p"), ("assistant", None)], r"no text in turn 2 \(assistant\)"),
        ([("user", ["p"]), ("assistant", "c")], "key `content` contains a list"),
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
    values["messages"][1]["content"] = None
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
    assert "not text" in refusal_of({"prompt": "p", "completion": value})


def test_lone_surrogate_is_refused_with_its_place():
    reason = refusal_of({"prompt": "ab\ud800", "completion": "c"})
    assert "unpaired surrogate" in reason
    assert "character 3" in reason


def test_unknown_keys_are_named_with_the_way_out():
    reason = refusal_of({"utterance": "p", "team": "c"})
    assert reason == (
        "the keys `utterance`, `team` match no supported schema (such as prompt/completion, "
        "text/label, messages); set the columns in the recipe: "
        "`columns: {prompt: ..., completion: ...}`"
    )


@pytest.mark.parametrize(
    ("keys", "nearest"),
    [
        (("text", "labels"), "text/label"),
        (("prompt",), "prompt/completion, prompt/response, prompt/answer"),
        (("sentence1", "sentence2", "score"), "sentence1/sentence2/label"),
    ],
)
def test_the_schemas_that_lack_least_are_named(keys, nearest):
    assert f"(the nearest: {nearest});" in refusal_of(dict.fromkeys(keys, "a"))


def test_hostile_keys_stay_short_and_printable():
    reason = refusal_of({f"\ud800\n\x1b[31m{'k' * 1000}{n}": 1 for n in range(100)})
    assert reason.isprintable()
    assert len(reason) < 2000
    assert "88 more" in reason


def test_two_fitting_schemas_are_refused_rather_than_guessed():
    values = {"prompt": "p", "completion": "c", "response": "r"}
    assert "match both prompt/completion and prompt/response" in refusal_of(values)


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
    assert reason == "no column `tickets`, as set in the recipe; did you mean `ticket`?"
