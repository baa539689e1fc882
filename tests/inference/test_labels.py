"""A label matches an answer as whole words, in any script, unless it is negated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telltune.errors import RecipeError
from telltune.inference.labels import (
    closed_set,
    names,
    need_labels,
    read_label,
    same_text,
    why_no_labels,
    words,
)

FIELDS = ("anatomy", "surgery", "medicine")


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("It is a virus.", None),
        ("It is a virus, so B.", "B"),
        ("A virus.", "A"),
        ("The answer is a", "A"),
        ("a) a virus", "A"),
        ("(b) a virus", "B"),
        ("a", "A"),
        ("I chose c.", "C"),
        ("C++", None),
        ("A+", None),
    ],
)
def test_an_article_is_no_letter(answer: str, label: str | None) -> None:
    assert read_label(answer, ("A", "B", "C", "D")) == label


def test_a_letter_that_is_lowercase_itself_is_read_anywhere() -> None:
    assert read_label("a virus", ("a", "b")) == "a"


def test_a_part_of_a_number_is_no_label() -> None:
    assert read_label("3.5", ("3", "5")) is None
    assert read_label("3.5", ("3", "3.5")) == "3.5"
    assert read_label("It has 5 stars", ("3", "5")) == "5"


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Anatomy.", "anatomy"),
        ("**Anatomy**", "anatomy"),
        ("The answer is: anatomy", "anatomy"),
        ("not anatomy", None),
        ("It's not anatomy.", None),
        ("This isn't anatomy", None),
        ("This isn’t an anatomy question", None),
        ("It cannot be anatomy", None),
        ("non-anatomy", None),
        ("no anatomy here", None),
        ("neither anatomy nor surgery", None),
        ("neither anatomy, surgery, nor medicine", None),
        ("not anatomy or surgery", None),
        ("anatomy is not it", None),
        ("Anatomy isn't right", None),
        ("anything rather than anatomy", None),
        ("anatomy or surgery", None),
        # A negation ends with its clause, and applies only to what follows.
        ("No, anatomy", "anatomy"),
        ("No. It is anatomy", "anatomy"),
        ("No - anatomy", "anatomy"),
        ("not anatomy but surgery", "surgery"),
        ("not anatomy, surgery", "surgery"),
        ("surgery, not anatomy", "surgery"),
        ("surgery rather than anatomy", "surgery"),
        ("surgery instead of anatomy", "surgery"),
        ("It isn't anatomy. It is surgery.", "surgery"),
        ("anatomy is not the answer; surgery is", "surgery"),
        ("neither anatomy nor medicine but surgery", "surgery"),
        ("nothing but anatomy", "anatomy"),
        ("anatomy, no doubt", "anatomy"),
        ("no doubt anatomy", "anatomy"),
        ("It is not only anatomy", "anatomy"),
        ("I do not know", None),
        ("", None),
    ],
)
def test_a_label_that_is_denied_is_not_read(answer: str, label: str | None) -> None:
    assert read_label(answer, FIELDS) == label


@pytest.mark.parametrize(
    ("answer", "labels", "label"),
    [
        # A negation may be a label or a part of one.
        ("no", ("yes", "no"), "no"),
        ("No, it is not.", ("yes", "no"), "no"),
        ("Not spam.", ("spam", "not spam"), "not spam"),
        ("It is not spam", ("spam", "not spam"), "not spam"),
        ("It isn't spam", ("spam", "not spam"), "not spam"),
        ("spam", ("spam", "not spam"), "spam"),
        ("It isn't spam", ("spam", "ham"), None),
        ("not_entailment", ("entailment", "not_entailment"), "not_entailment"),
        ("not entailment", ("entailment", "contradiction"), None),
        ("I don’t know", ("I don't know", "sure"), "I don't know"),
        ("NOT ENOUGH INFO", ("supports", "refutes", "not enough info"), "not enough info"),
        ("no finding of pneumonia", ("pneumonia", "no finding"), "no finding"),
        # If one label contains another, the longest counts.
        ("heart surgery, since the heart is ill", ("heart", "heart surgery"), "heart surgery"),
        ("not heart surgery", ("heart", "heart surgery", "surgery"), None),
        ("not heart surgery, but heart", ("heart", "heart surgery"), "heart"),
        ("it is art", ("art", "heart"), "art"),
        # Without words, or with the same words.
        ("+", ("+", "-"), "+"),
        (" C++ ", ("C", "C++"), "C++"),
        ("the score is -1", ("+1", "-1", "1"), "-1"),
        # Scripts without spaces.
        ("答案是积极。", ("积极", "消极"), "积极"),
        ("这条评论不是积极的", ("积极", "消极"), None),
        ("不是积极，是消极", ("积极", "消极"), "消极"),
        ("非常积极", ("积极", "消极"), "积极"),
        ("没错，积极", ("积极", "消极"), "积极"),
        ("不安です", ("不安", "安心"), "不安"),
        ("ポジティブです", ("ポジティブ", "ネガティブ"), "ポジティブ"),
        ("ポジティブではない", ("ポジティブ", "ネガティブ"), None),
        # Other languages.
        ("Das ist nicht positiv, sondern negativ", ("positiv", "negativ"), "negativ"),
        ("kein Spam", ("spam", "ham"), None),
        ("ce n'est pas positif", ("positif", "négatif"), None),
        ("no es positivo sino negativo", ("positivo", "negativo"), "negativo"),
        ("не спам", ("спам", "письмо"), None),
    ],
)
def test_labels_of_many_kinds(answer: str, labels: tuple[str, ...], label: str | None) -> None:
    assert read_label(answer, labels) == label


def test_white_space_makes_no_other_label_and_the_usual_spelling_is_kept() -> None:
    assert closed_set(["ball", "ball ", "box\n", "box", "ball "] * 2) == ("ball ", "box\n")
    assert closed_set([" b", "a"] * 2) == ("a", " b")


def test_thinking_is_no_part_of_a_label() -> None:
    answers = [f"<think>{n} is it.</think>\n\n{('ball', 'box')[n % 2]}" for n in range(8)]
    assert closed_set(answers) == ("ball", "box")
    assert closed_set([f"[THINK]{n}[/THINK]{n}" for n in range(8)]) == ()


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([*"abcdefghijklm", *"xyxyxyzzz"], "13 of 16 different answers occur only once"),
        (["a", "b"], "2 different answers need at least 4 examples, and there are 2"),
        ([*"0123456789"] * 2, "10 different answers, most of them numbers, need at least 50 exa"),
        (["a" * 81, "b", "b", "c\nd"] * 2, "4 of 8 answers have several lines or more than 80"),
        ([f"label {n}" for n in range(101)] * 2, "there are 101 different answers, and at most"),
    ],
)
def test_the_condition_that_answers_fail_is_named_with_its_numbers(
    answers: list[str], reason: str
) -> None:
    assert why_no_labels(answers).startswith(reason)
    assert closed_set(answers) == ()
    with pytest.raises(RecipeError, match=f"are not a closed set of labels: {reason}.*; use it"):
        need_labels((), "it", "use it", answers)


def test_a_closed_set_fails_no_condition() -> None:
    assert why_no_labels(["ball", "box"] * 2) == ""
    # A draw of nineteen examples of eight topics.
    assert why_no_labels([*"aaaaaaabbbbccc", *"defgh"]) == ""


@given(
    labels=st.lists(st.text(min_size=1, max_size=8).map(str.strip).filter(bool), unique=True),
    data=st.data(),
)
def test_every_label_reads_as_itself(labels: list[str], data: st.DataObject) -> None:
    if labels:
        label = data.draw(st.sampled_from(labels))
        assert read_label(f" {label}\n", labels) == label


def test_words_are_counted_where_no_space_stands_between_them() -> None:
    assert words("Don't PANIC, hi_x") == ["don", "t", "panic", "hi_x"]
    assert words("今天天气") == ["今", "天", "天", "气"]
    assert words("データベースです") == ["データベース", "で", "す"]
    assert words("हिन्दी का") == ["हिन्दी", "का"]
    assert words("-5 or 5-10") == ["-5", "or", "5", "10"]


def test_a_name_stands_in_a_text_denied_or_not() -> None:
    # Published memory levels count plain occurrence.
    assert names("It is not Paris.", "paris")
    for text, name in (
        ("about 10,000 people", "10"),
        ("about 10,000 people", "000"),
        ("It is 3.5 km", "5"),
        ("minus -5", "5"),
        ("It is written in C.", "C++"),
        ("It is written in C++.", "C"),
        ("値段は10,000円です", "10"),
    ):
        assert not names(text, name), (text, name)
    for text, name in (
        ("about 10,000 people", "10,000"),
        ("It is 3.5km", "3.5"),
        ("in 1999, or 2000.", "2000"),
        ("C++, not C", "C++"),
        ("C++, not C", "c"),
    ):
        assert names(text, name), (text, name)
    assert not names("Parisian", "Paris")
    assert not names("anything", "?!")
    assert same_text("A,  b!") == same_text("a b")
