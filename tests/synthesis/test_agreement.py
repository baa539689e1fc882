"""Agreement and balance: known answers."""

from __future__ import annotations

import pytest

from telltune.data.examples import Example
from telltune.synthesis.agreement import agreed, balanced
from telltune.synthesis.filters import TextFilter

LABELS = ("heart", "heart surgery", "skin")
FREE = TextFilter(["a b c", "d e f"], distinct=False)


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        (["Skin.", "skin", "heart", "It is skin"], ("skin", 0.75, None)),
        (["Heart surgery!", "heart surgery"], ("heart surgery", 1.0, None)),
        (["heart or skin", "dunno"], ("", 0.0, "label")),
        (["skin", "x", "y", "z", "v"], ("skin", 0.2, "inconsistent")),
    ],
)
def test_answers_count_as_the_one_label_that_they_name(
    answers: list[str], found: tuple[str, float, str | None]
) -> None:
    assert agreed(answers, LABELS, 0.3, FREE) == found


def test_free_text_agrees_by_its_words_and_is_filtered() -> None:
    assert agreed(["A b c", "a b c.", "x y z"], (), 0.3, FREE) == ("A b c", 2 / 3, None)
    assert agreed(["", "?"], (), 0.3, FREE) == ("", 0.0, "empty")
    assert agreed(["word " * 20], (), 0.3, FREE)[2] == "length"


def test_no_label_comes_more_than_twice_as_often_as_labels_do_on_average() -> None:
    examples = [Example(f"q{i}", label) for i, label in enumerate("aaaaaaaabc")]
    kept = balanced(examples, ("a", "b", "c", "never"))
    assert "".join(e.completion for e in kept) == "aaaaabc"
    assert balanced(examples[-3:], ("a", "b", "c")) == examples[-3:]
    assert balanced(examples[:1], ("a", "b", "c", "never")) == examples[:1]
    assert balanced(examples, ()) == examples
    assert balanced([], ("a",)) == []
