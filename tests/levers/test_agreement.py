"""Agreement and balance have known answers, and properties for any number of labels."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telltune.data.examples import Example
from telltune.levers.filters import TextFilter, agreed, balanced

LABELS = ("heart", "heart surgery", "skin")
FREE = TextFilter(["a b c", "d e f"], distinct=False)


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        (["Skin.", "skin", "heart", "It is skin"], ("skin", 0.75, None)),
        (["Heart surgery!", "heart surgery"], ("heart surgery", 1.0, None)),
        (["heart or skin", "dunno"], ("", 0.0, "label")),
        (["skin", "x", "y", "z", "v"], ("skin", 0.2, "inconsistent")),
        (["not skin", "It isn't skin", "not skin but heart"], ("heart", 1 / 3, None)),
    ],
)
def test_answers_count_as_the_one_label_that_they_name(
    answers: list[str], found: tuple[str, float, str | None]
) -> None:
    assert agreed(answers, LABELS, 0.3, FREE) == found


def test_labels_that_differ_in_signs_only_are_counted_apart() -> None:
    assert agreed(["+", "-", "+"], ("+", "-"), 0.3, FREE) == ("+", 2 / 3, None)
    assert agreed(["C++", "C", "C++"], ("C", "C++"), 0.3, FREE) == ("C++", 2 / 3, None)
    assert agreed(["-1", "+1", "the score is -1"], ("+1", "-1"), 0.3, FREE) == ("-1", 2 / 3, None)


def test_free_text_agrees_by_its_words_and_is_filtered() -> None:
    assert agreed(["A b c", "a b c.", "x y z"], (), 0.3, FREE) == ("A b c", 2 / 3, None)
    assert agreed(["", "?"], (), 0.3, FREE) == ("", 0.0, "empty")
    assert agreed(["word " * 20], (), 0.3, FREE)[2] == "length"
    # Signs and vowel signs are part of an answer.
    assert agreed(["5 a b", "-5 a b", "-5 a b"], (), 0.3, FREE)[:2] == ("-5 a b", 2 / 3)
    assert agreed(["का a b", "की a b"], (), 0.6, FREE)[2] == "inconsistent"


def made(text: str) -> list[Example]:
    return [Example(f"q{i}", label) for i, label in enumerate(text)]


def labels_of(examples: list[Example]) -> str:
    return "".join(example.completion for example in examples)


@pytest.mark.parametrize(
    ("came", "labels", "kept"),
    [
        ("a" * 99 + "b", "ab", "aab"),
        ("b" + "a" * 99, "ab", "baa"),
        ("aaaabb", "ab", "aaaabb"),
        ("aaaaa", "ab", "a"),
        ("aaaaaaaabc", "abcd", "abc"),
        ("aaaaaabbbccc", "abc", "aaaaaabbbccc"),
        ("aaaaaaabbbccc", "abc", "aaaaaabbbccc"),
        ("abc", "abc", "abc"),
        ("a", "abcd", "a"),
        ("aaaa", "a", "aaaa"),
        ("aabx", "", "aabx"),
        ("", "ab", ""),
    ],
)
def test_no_label_comes_more_than_twice_as_often_as_the_others(
    came: str, labels: str, kept: str
) -> None:
    assert labels_of(balanced(made(came), tuple(labels))) == kept


@given(
    counts=st.lists(st.integers(0, 40), min_size=2, max_size=9),
    most=st.none() | st.integers(1, 60),
    order=st.randoms(use_true_random=False),
)
def test_what_is_kept_is_balanced_for_any_number_of_labels(
    counts: list[int], most: int | None, order: st.DataObject
) -> None:
    labels = "abcdefghi"[: len(counts)]
    came = [label for label, n in zip(labels, counts, strict=True) for _ in range(n)]
    order.shuffle(came)
    examples = made("".join(came))
    whole = balanced(examples, tuple(labels))
    kept = Counter(labels_of(whole))
    for label in labels:
        others = (kept.total() - kept[label]) / (len(labels) - 1)
        assert kept[label] <= max(1, 2 * others)
        # The first examples of each label, in their order.
        first = [e for e in examples if e.completion == label][: kept[label]]
        assert [e for e in whole if e.completion == label] == first
    # One more example of each label that has more would be too many.
    if kept != Counter(came):
        cap = max(kept.values()) + 1
        more = {label: min(n, cap) for label, n in zip(labels, counts, strict=True)}
        assert cap * (len(labels) - 1) > 2 * (sum(more.values()) - cap)
    some = Counter(labels_of(balanced(examples, tuple(labels), most)))
    assert some.total() == min(len(whole), most or len(whole))
    for a in labels:
        for b in labels:
            # A label with more examples has at most one less than any other.
            assert some[a] >= min(kept[a], some[b] - 1)
