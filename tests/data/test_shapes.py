"""Rows in the layouts of public data sets become the expected examples."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from telltune.data.examples import Example
from telltune.data.loaders import scan
from telltune.data.report import ReadReport
from telltune.recipe import DataSpec


@pytest.fixture
def read(tmp_path):
    """Return a function that reads rows as JSONL; it returns items and the report on reading."""

    def read(*rows, **spec):
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        report = ReadReport()
        items = list(scan(DataSpec(path=str(path), **spec), report))
        return items, report

    return read


@pytest.fixture
def one(read):
    def one(row, **spec):
        (item,), report = read(row, **spec)
        return item, set(report.unread)

    return one


def parquet(path, columns, features):
    """Write a file as `datasets` does, with its features in the metadata."""
    table = pa.table(columns)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    report = ReadReport()
    return list(scan(DataSpec(path=str(path)), report)), report


def text(item):
    assert isinstance(item, Example), item
    return item.prompt, item.completion


def test_dolly(one):
    row = {"instruction": "When?", "context": "Since 1842.", "response": "1842", "category": "qa"}
    item, unread = one(row)
    assert text(item) == ("When?\n\nSince 1842.", "1842")
    assert unread == {"category"}
    assert text(one(row | {"context": ""})[0]) == ("When?", "1842")


def test_squad(one):
    answers = {"text": ["1842", "1842"], "answer_start": [6, 6]}
    row = {"id": "5", "title": "Opera", "context": "Since 1842.", "question": "When?"}
    item, unread = one(row | {"answers": answers})
    assert text(item) == ("When?\n\nSince 1842.", "1842")
    assert unread == {"id", "title"}


def test_several_right_answers_are_named(one):
    item, unread = one({"question": "When?", "answer": ["1842", "in 1842"]})
    assert text(item) == ("When?", "1842")
    assert unread == {"answer[1:]"}


def test_squad_question_without_an_answer_is_refused(one):
    row = {"question": "When?", "answers": {"text": [], "answer_start": []}}
    assert one(row)[0].reason == "no response: key `answers` is empty"


@pytest.mark.parametrize("answer", [2, "C", "c", "(C)", "C.", "Bonn", "C. Bonn"])
def test_mmlu(one, answer):
    row = {"question": "Which?", "subject": "geo", "choices": ["Rome", "Oslo", "Bonn", "Bern"]}
    item, unread = one(row | {"answer": answer})
    assert text(item) == ("Which?\n\nA. Rome\nB. Oslo\nC. Bonn\nD. Bern", "C")
    assert unread == {"subject"}


def test_arc(one):
    choices = {"text": ["ice", "water"], "label": ["1", "2"]}
    item, unread = one({"id": "x", "question": "Hot?", "choices": choices, "answerKey": "2"})
    assert text(item) == ("Hot?\n\n1. ice\n2. water", "2")
    assert unread == {"id"}


OPTION = {"label": "A", "text": "x"}, {"label": "B", "text": "y"}


@pytest.mark.parametrize(
    ("choices", "unread"),
    [
        ([OPTION[0] | {"note": "n"}, OPTION[1]], {"choices[].note"}),
        ([OPTION[0] | {"image": None}, OPTION[1] | {"image": ""}], set()),
        ({"text": ["x", "y"], "label": ["A", "B"], "note": [None, "n"]}, {"choices[].note"}),
        ({"text": ["x", "y"], "label": ["A", "B"], "image": [None, None]}, set()),
        ({"text": ["x", "y"], "label": ["A", "B"], "count": 2}, {"choices[].count"}),
    ],
)
def test_unread_keys_of_options_are_named(one, choices, unread):
    item, found = one({"question": "Q?", "choices": choices, "answer": "A"})
    assert (*text(item), found) == ("Q?\n\nA. x\nB. y", "A", unread)


@pytest.mark.parametrize("key", ["image", "audio"])
@pytest.mark.parametrize(
    "choices",
    [
        lambda key: [OPTION[0], OPTION[1] | {key: "a.png"}],
        lambda key: {"text": ["x", "y"], "label": ["A", "B"], key: [None, "a.png"]},
    ],
)
def test_options_with_more_than_text_are_refused(one, choices, key):
    item, _ = one({"question": "Q?", "choices": choices(key), "answer": "A"})
    assert f"an option in key `choices` has `{key}`, but telltune supports text" in item.reason


def test_medqa_with_options_by_letter(one):
    row = {"question": "Q?", "options": {"A": "x", "B": "y"}, "answer": "y", "answer_idx": "B"}
    item, unread = one(row)
    assert text(item) == ("Q?\n\nA. x\nB. y", "B")
    assert unread == {"answer_idx"}


def test_c_eval_with_a_column_for_each_letter(one):
    row = {"question": "Q?", "A": "w", "B": "x", "C": "y", "D": "z", "answer": "D"}
    assert text(one(row)[0]) == ("Q?\n\nA. w\nB. x\nC. y\nD. z", "D")


def test_hellaswag_with_its_endings_as_options(one):
    row = {"ind": 1, "prompt": "He", "endings": ["sits", "flies"], "answer": "1"}
    assert text(one(row)[0]) == ("He\n\nA. sits\nB. flies", "B")


def test_race_with_article_and_options(one):
    row = {"article": "Long ago.", "question": "When?", "options": ["ago", "now"], "answer": "A"}
    assert text(one(row)[0]) == ("When?\n\nLong ago.\n\nA. ago\nB. now", "A")


def test_gsm8k(one):
    row = {"question": "2 + 3?", "answer": "2 + 3 = 5\n#### 5"}
    assert text(one(row)[0]) == ("2 + 3?", "2 + 3 = 5\n#### 5")


def test_math(one):
    row = {"problem": "1 + 1?", "level": "Level 1", "type": "Algebra", "solution": "$2$"}
    item, unread = one(row)
    assert text(item) == ("1 + 1?", "$2$")
    assert unread == {"level", "type"}


def test_chain_of_thought_names_the_rationale(one):
    item, unread = one({"question": "Q?", "rationale": "Since.", "answer": "A."})
    assert text(item) == ("Q?", "A.")
    assert unread == {"rationale"}


def test_open_orca(one):
    row = {"id": "t0.1", "system_prompt": "Be brief.", "question": "Q?", "response": "A."}
    item, unread = one(row)
    assert (item.history, unread) == ((("system", "Be brief."),), {"id"})


def test_ultrachat(one):
    turns = [{"content": "Hi", "role": "user"}, {"content": "Hello.", "role": "assistant"}]
    item, unread = one({"prompt": "Hi", "prompt_id": "f0", "messages": turns})
    assert text(item) == ("Hi", "Hello.")
    assert unread == {"prompt", "prompt_id"}


def test_open_assistant_tree_rows_are_refused(one):
    row = {"message_id": "1", "parent_id": None, "text": "Hi", "role": "prompter", "lang": "en"}
    assert "match no supported schema" in one(row)[0].reason


def test_lmsys_chat(one):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    item, unread = one({"conversation_id": "1", "model": "m", "conversation": turns})
    assert text(item) == ("Hi", "Hello.")
    assert unread == {"conversation_id", "model"}


def test_tool_ace_is_refused_at_its_tool_turn(one):
    turns = [("user", "Weather?"), ("assistant", "[weather()]"), ("tool", "{}")]
    row = {"system": "s", "conversations": [{"from": who, "value": said} for who, said in turns]}
    assert "turn 3 has role `tool`, which telltune does not support" in one(row)[0].reason


def test_kto_learns_the_good_answers_only(read):
    rows = [{"prompt": f"p{n}", "completion": "c", "label": n % 2 == 1} for n in range(6)]
    items, report = read(*rows)
    assert [item.prompt for item in items] == ["p1", "p3", "p5"]
    (group,) = report.left_out
    assert (group.count, report.unread) == (3, {})


def test_dpo_is_refused_and_the_way_out_works(one):
    said = {"role": "user", "content": "Hi"}
    chosen, rejected = ([said, {"role": "assistant", "content": text}] for text in ("+", "-"))
    row = {"prompt": "Hi", "chosen": chosen, "rejected": rejected}
    reason = one(row)[0].reason
    assert "preference data" in reason
    columns = {"prompt": "prompt", "completion": "chosen"}
    assert f"`columns: {columns}`".replace("'", "") in reason
    item, unread = one(row, columns=columns)
    assert (item.history, *text(item)) == ((), "Hi", "+")
    assert unread == {"rejected"}


def test_trl_prompt_and_completion_as_messages(one):
    prompt = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    item, unread = one({"prompt": prompt, "completion": [{"role": "assistant", "content": "d"}]})
    assert item.history == (("system", "s"), ("user", "a"), ("assistant", "b"))
    assert (*text(item), unread) == ("c", "d", set())


def test_gpt_oss_thinking(one):
    turns = [
        {"role": "developer", "content": "s", "thinking": None},
        {"role": "user", "content": "Q?", "thinking": None},
        {"role": "assistant", "content": "A.", "thinking": "Hm."},
    ]
    item, unread = one({"reasoning_language": "en", "messages": turns})
    assert (item.reasoning, item.history) == ("Hm.", (("system", "s"),))
    assert unread == {"reasoning_language"}


def test_sst2_parquet_gives_the_names_of_its_classes(tmp_path):
    columns = {"idx": [0, 1, 2], "sentence": ["good", "bad", "hidden"], "label": [1, 0, -1]}
    label = {"names": ["negative", "positive"], "_type": "ClassLabel"}
    features = {"idx": {"dtype": "int32", "_type": "Value"}, "label": label}
    items, report = parquet(tmp_path / "sst2.parquet", columns, features)
    assert [text(item) for item in items[:2]] == [("good", "positive"), ("bad", "negative")]
    assert items[2].reason == "no response: key `label` is empty"
    assert report.unread == {"idx": 2}


def test_mnli_parquet(tmp_path):
    columns = {"premise": ["It rains."], "hypothesis": ["It is wet."], "label": [0], "idx": [7]}
    label = {"names": ["entailment", "neutral", "contradiction"], "_type": "ClassLabel"}
    (item,), _ = parquet(tmp_path / "mnli.parquet", columns, {"label": label})
    assert text(item) == ("Premise: It rains.\nHypothesis: It is wet.", "entailment")


def test_mmlu_parquet(tmp_path):
    columns = {"question": ["Q?"], "choices": [["w", "x", "y", "z"]], "answer": [3]}
    answer = {"names": ["A", "B", "C", "D"], "_type": "ClassLabel"}
    (item,), _ = parquet(tmp_path / "mmlu.parquet", columns, {"answer": answer})
    assert text(item) == ("Q?\n\nA. w\nB. x\nC. y\nD. z", "D")


@pytest.mark.parametrize("features", [None, [], {"label": 3}, {"label": {"_type": "ClassLabel"}}])
def test_features_of_another_layout_name_nothing(tmp_path, features):
    columns = {"text": ["t"], "label": [1]}
    (item,), _ = parquet(tmp_path / "odd.parquet", columns, features)
    assert text(item) == ("t", "1")


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"sentence1": "a", "sentence2": "b"}, "Sentence 1: a\nSentence 2: b"),
        ({"question1": "a", "question2": "b"}, "Question 1: a\nQuestion 2: b"),
        ({"question": "a", "sentence": "b"}, "Question: a\nSentence: b"),
    ],
)
def test_pairs_of_texts(one, row, prompt):
    item, unread = one(row | {"label": "same", "idx": 0})
    assert (*text(item), unread) == (prompt, "same", {"idx"})


def test_setfit_takes_the_name_beside_the_number(one):
    item, unread = one({"text": "t", "label": 0, "label_text": "negative"})
    assert (*text(item), unread) == ("t", "negative", set())


def test_labels_of_the_recipe_name_numbers(read):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": "good"}, {"text": "c", "label": 2}]
    (first, second, third), report = read(*rows, labels=["bad", "good"])
    assert [text(first), text(second)] == [("a", "good"), ("b", "good")]
    assert "the answer `2` is neither one of the recipe's `labels`" in third.reason
    assert not report.findings()


def test_a_number_that_is_a_name_and_the_number_of_another_is_refused(read):
    stars = [f"{n}" for n in range(1, 6)]
    rows = [{"text": "t", "label": n} for n in (0, 1, 5)]
    (first, second, third), _ = read(*rows, labels=stars)
    assert (first.completion, third.completion) == ("1", "5")
    assert "the answer `1` is one of the recipe's `labels`, and the number of another" in (
        second.reason
    )
    # Each name is its own number.
    items, _ = read(*rows[:2], labels=["0", "1"])
    assert [item.completion for item in items] == ["0", "1"]


def test_labels_name_the_column_that_the_recipe_names(one):
    columns = {"prompt": "ticket", "completion": "team"}
    item, _ = one({"ticket": "t", "team": 0}, columns=columns, labels=["sales", "support"])
    assert text(item) == ("t", "sales")


def test_numbers_that_pandas_wrote_with_a_fraction_are_numbers_of_classes(read):
    rows = [{"text": "a", "label": 1.0}, {"text": "b", "label": 0.0}]
    items, _ = read(*rows, labels=["bad", "good"])
    assert [item.completion for item in items] == ["good", "bad"]
    _, report = read(*rows)
    assert (
        "labels are numbers without names, such as `1.0` (2 of 2 rows)" in report.warnings("t")[0]
    )


def test_labels_of_minus_one_are_told(read):
    _, report = read(*({"premise": "a", "hypothesis": "b", "label": n} for n in (0, -1, 1)))
    (warning,) = report.warnings("task.train")
    assert "; 1 of them are -1, which often marks a row without a label; add" in warning


def test_numbers_in_a_named_column_of_labels_are_told(read):
    columns = {"prompt": "text", "completion": "label"}
    _, report = read(*({"text": "t", "label": n} for n in (0, -1)), columns=columns)
    (warning,) = report.warnings("task.train")
    assert "labels are numbers without names" in warning
    assert "; 1 of them are -1" in warning


def test_numbers_without_names_are_kept_and_told(read):
    items, report = read(*({"text": "t", "label": n} for n in (0, 1, 1)))
    assert [item.completion for item in items] == ["0", "1", "1"]
    (warning,) = report.warnings("task.train")
    assert warning == (
        "task.train: labels are numbers without names, such as `0` (3 of 3 rows); add their "
        "names to the recipe: `labels: [name of 0, name of 1, ...]`."
    )
