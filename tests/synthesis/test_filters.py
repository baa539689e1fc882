"""Filters: each reason on a case of its own."""

from __future__ import annotations

import pytest

from telltune.synthesis.filters import TextFilter

SHOWN = ["one two three four", "one two three four five six", "a b c d e"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" ?! ", "empty"),
        ("Sure! One two three four", "opener"),
        ("Here is another input for it", "opener"),
        ("Surely two three four", None),
        ("two", "length"),
        ("a " * 30, "length"),
        ("One, two; three FOUR", "duplicate"),
        ("seven eight nine ten", None),
    ],
)
def test_each_text_is_refused_for_its_own_reason(text: str, reason: str | None) -> None:
    assert TextFilter(SHOWN).reason(text) == reason


def test_what_was_kept_is_a_duplicate_the_next_time_unless_texts_may_come_again() -> None:
    once, again = TextFilter(SHOWN), TextFilter(SHOWN, distinct=False)
    for found, second in ((once, "duplicate"), (again, None)):
        assert found.reason("seven eight nine ten") is None
        assert found.reason("Seven eight nine ten.") == second


def test_demonstrations_of_one_length_leave_room_for_others() -> None:
    found = TextFilter(["a b c d", "e f g h"])
    assert found.reason("one two three") is None
    assert found.reason("one two three four five six") is None
    assert found.reason("one") == "length"
    assert TextFilter(["ball", "box"]).reason("blue ball") is None


def test_a_task_may_open_like_chatter() -> None:
    assert (
        TextFilter(["Question: who was he", "Question: who is she"]).reason("Question: where is it")
        is None
    )
