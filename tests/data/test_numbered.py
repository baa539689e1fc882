"""Numbered answers are read in the usual forms, and ambiguous ones are not guessed."""

from __future__ import annotations

import json
import re
import timeit
from time import process_time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telltune.data.numbered import ask_group, read_answers, say_answers

if TYPE_CHECKING:
    from telltune.data.numbered import Format

FORMS: list[Format] = ["lines", "json"]


@pytest.mark.parametrize(
    "shape",
    [
        "{n}: {a}",
        "{n}. {a}",
        "{n}.{a}",
        "{n}) {a}",
        "({n}) {a}",
        "({n}): {a}",
        "[{n}] {a}",
        "[{n}]: {a}",
        "**{n}:** {a}",
        "**{n}.** {a}",
        "**{n}**: {a}",
        "**{n}**. {a}",
        "**({n})** {a}",
        "**{n}: {a}**",
        "__{n}:__ {a}",
        "*{n}.* {a}",
        "`{n}`: {a}",
        "- {n}: {a}",
        "* {n}. {a}",
        "+ {n}) {a}",
        "• {n}: {a}",
        "> {n}: {a}",
        "- **{n}:** {a}",
        "- **{n}**: {a}",
        "{n} - {a}",
        "{n} – {a}",
        "{n} — {a}",
        "{n} = {a}",
        "{n} -> {a}",
        "{n} → {a}",
        "#{n}: {a}",
        "# {n}: {a}",
        "### {n}. {a}",
        "### {n}\n{a}",
        "### Answer {n}\n\n{a}\n",
        "**{n}**\n{a}",
        "Answer {n}\n{a}",
        "Answer {n}: {a}",
        "answer {n}. {a}",
        "Answer ({n}): {a}",
        "Answer #{n}: {a}",
        "Answer to {n}: {a}",
        "The answer to input {n}: {a}",
        "Input {n}: {a}",
        "Item {n} - {a}",
        "Output {n}: {a}",
        "Label {n}: {a}",
        "No. {n}: {a}",
        "**Answer {n}:** {a}",
        "**Answer {n}**: {a}",
        "- Answer {n}: {a}",
        "{n}：{a}",
        "{n}、{a}",
        "{n}．{a}",
        "  {n}: {a}",
        "{n}:\n{a}",
        "{n}:\n\n{a}\n",
        "**{n}:**\n{a}",
        "{n} | {a}",
        "| {n} | {a} |",
        "| **{n}** | {a} |",
    ],
)
@pytest.mark.parametrize(
    ("before", "after"),
    [("", ""), ("Sure! Here are the answers:\n\n", "\n\nLet me know.\n"), ("```text\n", "\n```")],
)
def test_every_usual_shape_of_a_list_is_read(shape: str, before: str, after: str) -> None:
    wanted = ["ham", "-5 is", "a: b", *"defghijk"]
    answers = list(enumerate(wanted, start=1))
    for said in (answers, answers[::-1]):
        reply = before + "\n".join(shape.format(n=n, a=a) for n, a in said) + after
        assert read_answers(reply, len(wanted)) == wanted


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        # Missing, duplicate, or more numbers than inputs.
        ("1: a", None),
        ("1: a\n2: b\n3: c", None),
        ("0: a\n1: b", None),
        ("1: a\n1: b", None),
        ("1: a\n1: a\n2: b", None),
        ("1: a\n2: b\n2: c", None),
        ("1: a\n2:", None),
        ("1:\n2: b", None),
        ("1: a\n**2:**", None),
        ("a\nb", None),
        ("", None),
        ("1: a, 2: b", None),
        # Inputs repeated beside their answers.
        ("Input 1: x\nAnswer 1: a\nInput 2: y\nAnswer 2: b", None),
        # A decimal, a time, a date or a range is no number of an answer.
        ("1: a\n2.5 is more", None),
        ("1: open at\n2:30 pm", None),
        ("1: a\n2nd place", None),
        ("1: a\n2-3 of them", None),
        ("1: 2.5\n2: 10:30", ["2.5", "10:30"]),
        ("1:5\n2:b", ["5", "b"]),
        # A number alone may be an answer.
        ("1\na\n2\nb", None),
        ("1: a\n2", None),
        # Further lines belong to the answer above.
        ("1: a\nmore\n2: b", ["a\nmore", "b"]),
        ("1: a\n  - more\n  - and more\n2: b\nend", ["a\n  - more\n  - and more", "b\nend"]),
        ("1: a\n\nsecond part\n\n2: b", ["a\n\nsecond part", "b"]),
        ("1: a\n2: b\n\nI hope this helps.\nBye", ["a", "b"]),
        ("1:\na\n2:\nb", ["a", "b"]),
        # Further indented numbers belong to the answer; others on the same level do not.
        ("1: first\n   1. buy\n   2. eat\n2: b", ["first\n   1. buy\n   2. eat", "b"]),
        ("1: first\n1. buy\n2. eat\n2: b", None),
        (" 1: a\n2: b", ["a", "b"]),
        ("1: a\n 2: b", ["a", "b"]),
        # Code in an answer is not a fence around the reply.
        ("1: see\n```\n2: x\n```\n2: b", None),
        ("1: see\n```\nx\n```\n2: b", ["see\n```\nx\n```", "b"]),
        # Bold answers stay; only the bold marks of the number are removed.
        ("1: **a**\n2: b", ["**a**", "b"]),
        ("**1:** **a**\n**2:** b", ["**a**", "b"]),
    ],
)
def test_a_list_is_read_by_its_numbers(reply: str, found: list[str] | None) -> None:
    assert read_answers(reply, 2) == found


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("| # | Answer |\n|---|---|\n| 1 | a |\n| 2 | b |", ["a", "b"]),
        ("Here:\n\n| Input | Label |\n| :-: | --- |\n| 2 | b |\n| 1 | a |\n\nDone.", ["a", "b"]),
        ("# | Answer\n--- | ---\n1 | a\n2 | b", ["a", "b"]),
        ("| # | Input | Answer |\n|---|---|---|\n| 1 | x | a |\n| 2 | y | b |", ["a", "b"]),
        ("| # | **Label** | Why |\n|---|---|---|\n| 1 | a | y |\n| 2 | b | x |", ["a", "b"]),
        ("| # | Answer |\n|---|---|\n| 1 | a \\| c |\n| 2 | b |", ["a | c", "b"]),
        # The column of the answer is unknown or missing.
        ("| # | x | y |\n|---|---|---|\n| 1 | x | a |\n| 2 | y | b |", None),
        ("| # | Answer | Label |\n|---|---|---|\n| 1 | x | a |\n| 2 | y | b |", None),
        ("| # | Answer |\n|---|---|\n| 1 | a |\n| 2 | |", None),
        ("| # | Answer |\n|---|---|\n| 1 | a |\n| 1 | b |", None),
        ("| 1 | a |\n| 2 | b |\n1: c", None),
    ],
)
def test_a_table_is_read_by_its_numbers(reply: str, found: list[str] | None) -> None:
    assert read_answers(reply, 2) == found


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('{"1": "a", "2": "b"}', ["a", "b"]),
        ('Here: {"2": 5, "1": "a"} ok', ["a", "5"]),
        ('{"1": 1.50, "2": true}', ["1.50", "true"]),
        ('```json\n{\n  "1": "a",\n  "2": "b"\n}\n```', ["a", "b"]),
        ('Sure:\n```\n{"1": "a", "2": "b"}\n```\nDone.', ["a", "b"]),
        ('{"answers": {"1": "a", "2": "b"}}', ["a", "b"]),
        ('{"count": 2, "data": {"answers": {"1": "a", "2": "b"}}}', ["a", "b"]),
        ('{"answers": [{"id": 2, "answer": "b"}, {"id": 1, "answer": "a"}]}', ["a", "b"]),
        ('[{"id": 1, "answer": "a"}, {"id": "2", "answer": "b"}]', ["a", "b"]),
        ('[{"number": 1, "label": "a"}, {"number": 2, "label": "b"}]', ["a", "b"]),
        ('[{"1": "a"}, {"2": "b"}]', ["a", "b"]),
        ('{"1": "a"}\n{"2": "b"}', ["a", "b"]),
        ('{"Answer 1": "a", "answer_2": "b"}', ["a", "b"]),
        ('{"#1": "a", "(2)": "b", "note": "fine"}', ["a", "b"]),
        ('{"1": {"answer": "a", "reason": "x"}, "2": {"answer": "b"}}', ["a", "b"]),
        ('{"1": "1: x\\n2: y", "2": "b"}', ["1: x\n2: y", "b"]),
        # Missing, duplicate, or ambiguous.
        ('{"1": "a"}', None),
        ('{"1": "a", "1": "b"}', None),
        ('{"1": "a", "01": "a", "2": "b"}', None),
        ('{"1": "a", "2": "b", "2": "c"}', None),
        ('{"inputs": {"1": "x", "2": "y"}, "answers": {"1": "a", "2": "b"}}', None),
        ('{"1": "a", "2": ["b"]}', None),
        ('{"1": "a", "2": null}', None),
        ('{"1": "a", "2": ""}', None),
        ('{"1": {"answer": "a", "label": "c"}, "2": "b"}', None),
        ('[{"id": 1, "number": 2, "answer": "a"}, {"id": 2, "answer": "b"}]', None),
        ('["a", "b"]', None),
        ('{"-1": "a", "2": "b"}', None),
        ('{"1": "a", "2": "b"', None),
        ('{"x": {"1": "a", "2": "b"}', None),
        ("[" * 100_000, None),
        ('{"1": ' * 50_000, None),
        ('{"1": "a", "' + "9" * 5000 + '": "b"}', None),
    ],
)
def test_json_is_read_by_its_keys(reply: str, found: list[str] | None) -> None:
    assert read_answers(reply, 2) == found


@given(
    answers=st.lists(st.text(min_size=1).filter(lambda text: text.strip()), min_size=1, max_size=12)
)
def test_what_is_said_is_read_again(answers: list[str]) -> None:
    lines = [" ".join(answer.split()) for answer in answers]
    assert read_answers(say_answers(answers, "lines"), len(answers)) == lines
    stripped = [answer.strip() for answer in answers]
    assert read_answers(say_answers(answers, "json"), len(answers)) == stripped


@given(reply=st.text(alphabet='12.: a-|#*()[]{}"\n`\\', max_size=60), count=st.integers(1, 3))
def test_any_reply_is_read_or_not_and_never_fails(reply: str, count: int) -> None:
    found = read_answers(reply, count)
    assert found is None or (len(found) == count and all(found))


@pytest.mark.parametrize("form", FORMS)
def test_plain_inputs_stand_as_they_are(form: Format) -> None:
    asked = ask_group(["p", "2. q", ""], form)
    assert asked.endswith("nothing else.\n\n1. p\n2. 2. q\n3. ")


LINES = st.text() | st.text(alphabet='a1. "\\\n\r\x85\u2028\x0b')


@given(prompts=st.lists(LINES, min_size=1, max_size=6), form=st.sampled_from(FORMS))
def test_each_input_is_one_line_from_which_it_can_be_had_again(
    prompts: list[str], form: Format
) -> None:
    _, _, inputs = ask_group(prompts, form).partition("\n\n")
    lines = inputs.splitlines()
    assert len(lines) == len(prompts)
    for number, (line, prompt) in enumerate(zip(lines, prompts, strict=True), start=1):
        found = re.fullmatch(rf"{number}\. (.*)", line)
        assert found
        assert found[1] == prompt or json.loads(found[1]) == prompt


@pytest.mark.parametrize("part", [" ", "\n", " \n", "|-", "| ", "1.", "#", "answer "])
def test_a_long_reply_is_read_in_time_in_proportion_to_its_length(part: str) -> None:
    def seconds(length: int) -> float:
        reply = f"{part * (length // len(part))}x"
        return min(
            timeit.repeat(lambda: read_answers(reply, 3), number=1, repeat=3, timer=process_time)
        )

    # Four times the length; quadratic time would be sixteen times as long.
    assert seconds(2**14) < 8 * seconds(2**12) + 0.02
