"""Columns are guessed by usual names, by their values, or not at all."""

from __future__ import annotations

import pytest

from telltune.errors import DataError
from telltune.proposal.columns import guess_columns
from telltune.recipe import Columns

TEXTS = [f"{what} number {n}" for n in range(4) for what in ("a lost parcel", "an invoice")]


def rows(**columns: list[str]) -> list[dict[str, object]]:
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def test_known_schemas_need_no_columns() -> None:
    assert guess_columns([{"text": "a", "label": "b"}], "x.csv") is None
    assert guess_columns([{"messages": []}], "x.csv") is None


def test_usual_names_win_whatever_their_case() -> None:
    found = rows(id=list("12345678"), Text=TEXTS, Team=["a", "b"] * 4, Priority=["x", "y"] * 4)
    assert guess_columns(found, "x.csv") == Columns(prompt="Text", completion="Team")


def test_otherwise_the_labels_are_the_answer_and_the_longest_text_the_prompt() -> None:
    found = rows(nr=list("12345678"), frage=TEXTS, art=["a", "b"] * 4)
    assert guess_columns(found, "x.csv") == Columns(prompt="frage", completion="art")


def test_of_two_columns_of_text_the_second_is_the_answer() -> None:
    found = rows(deutsch=TEXTS, english=[f"{text} translated" for text in TEXTS])
    assert guess_columns(found, "x.csv") == Columns(prompt="deutsch", completion="english")


def test_two_possible_answers_are_no_guess() -> None:
    found = rows(frage=TEXTS, art=["a", "b"] * 4, ort=["x", "y"] * 4)
    with pytest.raises(DataError, match=r"x\.csv: the columns .* `frage`, `art`, `ort`; name them"):
        guess_columns(found, "x.csv")


def test_a_column_that_tells_the_origin_of_rows_is_no_answer() -> None:
    found: list[dict[str, object]] = [{"text": "a", "labels": [1, 2], "id": str(n)} for n in "12"]
    with pytest.raises(DataError, match="cannot be told from `text`, `labels`, `id`; name them"):
        guess_columns(found, "x.csv")


@pytest.mark.parametrize(
    ("row", "dropped"),
    [
        ({"question": "q", "passage": "p", "label": "yes"}, "`passage`"),
        ({"query": "q", "choices": ["a", "b"], "target": "A"}, "`choices`"),
        ({"sentence1": "a", "sentence2": "b", "target": "same"}, "`sentence2`"),
        ({"goal": "g", "sol1": "a", "sol2": "b", "label": "1"}, "`sol1`, `sol2`"),
        ({"Question": "q", "A": "a", "B": "b", "C": "c", "Answer": "A"}, "`A`, `B`, `C`"),
        (
            {"Question": "q", "Option A": "a", "Option B": "b", "Answer": "A"},
            "`Option A`, `Option B`",
        ),
        (
            {"question": "q", "opa": "a", "opb": "b", "opc": "c", "target": "1"},
            "`opa`, `opb`, `opc`",
        ),
    ],
)
def test_no_guess_leaves_out_a_part_of_what_is_asked(row: dict[str, object], dropped: str) -> None:
    with pytest.raises(DataError, match=f"would leave out {dropped}; join them to the prompt"):
        guess_columns([row] * 4, "x.csv")


def test_preference_pairs_are_no_guess() -> None:
    row: dict[str, object] = {"instruction": "i", "input": "x", "chosen": "+", "rejected": "-"}
    with pytest.raises(DataError, match=r"x\.csv: the keys `chosen` and `rejected` are preference"):
        guess_columns([row], "x.csv")


def test_columns_that_are_mostly_empty_are_not_considered() -> None:
    found = rows(frage=TEXTS, art=["a", "b"] * 4, label=["", "", "", "", "", "", "", "z"])
    assert guess_columns(found, "x.csv") == Columns(prompt="frage", completion="art")


def test_a_row_in_place_of_the_header_is_refused() -> None:
    found = rows(**{"Hello there": TEXTS, "ham": ["spam", "ham"] * 4})
    with pytest.raises(DataError, match=r"x\.csv:1: `ham` is the name of a column and a value"):
        guess_columns(found, "x.csv")


def test_a_usual_name_may_be_a_value_as_well() -> None:
    found = rows(Text=TEXTS, spam=["spam", "ham"] * 4)
    assert guess_columns(found, "x.csv") == Columns(prompt="Text", completion="spam")


@pytest.mark.parametrize("names", [("command", "utterance"), ("utterance", "command")])
@pytest.mark.parametrize("answers", [TEXTS, ["a", "b"] * 4])
def test_a_column_named_as_a_prompt_is_no_answer(
    names: tuple[str, str], answers: list[str]
) -> None:
    values = {"command": answers, "utterance": ["yes", "no"] * 4}
    found = rows(**{name: values[name] for name in names})
    assert guess_columns(found, "x.csv") == Columns(prompt="utterance", completion="command")


@pytest.mark.parametrize(
    "names", [("query", "question"), ("article", "title"), ("dialogue", "summary", "topic")]
)
def test_names_that_fit_prompt_or_answer_twice_are_no_guess(names: tuple[str, ...]) -> None:
    found = rows(**{name: [f"{name} {text}" for text in TEXTS] for name in names})
    with pytest.raises(DataError, match="cannot be told from"):
        guess_columns(found, "x.csv")


@pytest.mark.parametrize(
    ("role", "said", "roles"),
    [
        ("role", "content", ["user", "assistant"]),
        ("Role", "text", ["prompter", "assistant"]),
        ("from", "value", ["human", "gpt"]),
    ],
)
def test_one_turn_in_each_row_is_no_guess(role: str, said: str, roles: list[str]) -> None:
    found = rows(**{role: roles * 4, said: TEXTS})
    with pytest.raises(DataError, match=f"one turn of a chat, with its role in `{role}`; write"):
        guess_columns(found, "x.jsonl")


def test_who_wrote_a_text_is_a_label() -> None:
    found = rows(text=TEXTS, author=["human", "ai"] * 4)
    assert guess_columns(found, "x.csv") == Columns(prompt="text", completion="author")


@pytest.mark.parametrize("mark", ["accept", "reject"])
def test_the_mark_of_prodigy_is_no_answer(mark: str) -> None:
    row: dict[str, object] = {"text": "t", "spans": [], "_task_hash": 1, "answer": mark}
    with pytest.raises(DataError, match=r"x\.jsonl: `answer` .* is Prodigy's mark"):
        guess_columns([row] * 4, "x.jsonl")


@pytest.mark.parametrize(
    "header", [("Tickets 2024", "column 2"), ("Kunde", "Antwort"), ("Customer", "Answer")]
)
@pytest.mark.parametrize("names", [("text", "team"), ("Message", "Category")])
def test_a_header_below_the_first_line_is_refused(
    header: tuple[str, str], names: tuple[str, str]
) -> None:
    found = rows(**{header[0]: [names[0], *TEXTS], header[1]: [names[1], *["a", "b"] * 4]})
    with pytest.raises(DataError, match=f"names of columns .`{names[0]}`, `{names[1]}`.: delete"):
        guess_columns(found, "x.csv")


def test_words_that_are_usual_names_may_be_labels() -> None:
    found = rows(frage=["text", *TEXTS], art=["team", "a", "team", *["a", "b"] * 3])
    assert guess_columns(found, "x.csv") == Columns(prompt="frage", completion="art")


def test_a_guessed_column_has_a_name() -> None:
    found = rows(**{"Umsatz 2024": ["Frage", *TEXTS], "column 2": ["Art", *["a", "b"] * 4]})
    with pytest.raises(DataError, match=r"x\.csv:1: the first line has no name for column 2"):
        guess_columns(found, "x.csv")


def test_a_name_that_begins_like_the_values_below_it_is_refused() -> None:
    asked = "What is the capital of {}?"
    found = rows(**{asked.format("a"): [asked.format(x) for x in "bcde"], "A City": list("1234")})
    with pytest.raises(DataError, match=r"x\.csv:1: .* begins like most values in it"):
        guess_columns(found, "x.csv")


def test_a_question_may_be_the_name_of_a_column() -> None:
    found = rows(**{"What is your request?": TEXTS, "Which team is it for?": ["a", "b"] * 4})
    assert guess_columns(found, "x.csv") == Columns(
        prompt="What is your request?", completion="Which team is it for?"
    )
