"""Each reason of the filters applies to a case."""

from __future__ import annotations

import pytest

from telltune.levers.filters import TextFilter

SHOWN = ["one two three four", "one two three four five six", "a b c d e"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" ?! ", "empty"),
        ("Sure! One two three four", "opener"),
        ("Here is another input for it", "opener"),
        ("Surely two three four", None),
        ("Here's another one for it", "opener"),
        ("Here’s another one for it", "opener"),
        ("Of course two three four", "opener"),
        ("I’m sorry, two three four", "opener"),
        ("Input: two three four", "opener"),
        ("Input:two three four five", "opener"),
        ("question : two three four", "opener"),
        ("**Answer:** two three four", "opener"),
        ("Output 2: two three four", "opener"),
        ("输入 input：two three four", None),
        ("Inputs two three four", None),
        ("Input two three four", None),
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


@pytest.mark.parametrize(
    ("demonstrations", "short", "good", "long"),
    [
        # No spaces: split at white space, each of these is one word.
        (
            ["今天天气很好我们去公园", "他昨天买了一本新书给我"],
            "好",
            "我明天想去北京看朋友",
            "很" * 60,
        ),
        (
            ["きょうはとてもいいてんきです", "あしたはともだちにあいます"],
            "は",
            "きのうはうちにいました",
            "あ" * 80,
        ),
        (["วันนี้อากาศดีมาก", "ฉันชอบกินข้าวผัด"], "ดี", "เขาไปตลาดทุกวัน", "มาก" * 30),
        (["one two three four", "five six seven eight"], "one", "nine ten one two", "a " * 30),
    ],
)
def test_length_is_counted_in_every_script(
    demonstrations: list[str], short: str, good: str, long: str
) -> None:
    found = TextFilter(demonstrations)
    assert [found.reason(text) for text in (short, good, long)] == ["length", None, "length"]
