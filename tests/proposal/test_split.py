"""Parts share no prompt, depend on the texts alone, and cover the labels."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.data.checks import TRAIN, check_examples
from telltune.data.examples import Example
from telltune.proposal.split import KEPT, split_rows

if TYPE_CHECKING:
    from telltune.data.files import Split

WORDS = [
    "invoice",
    "parcel",
    "refund",
    "login",
    "late",
    "broken",
    "charged",
    "twice",
    "where",
    "when",
    "my",
    "the",
    "is",
    "a",
    "lost",
]
Row = tuple[str, str]

texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)
data = st.lists(
    st.tuples(texts, st.sampled_from(["billing", "shipping", "returns", "rare"])),
    min_size=1,
    max_size=60,
)


def split(rows: list[Row]) -> list[Split]:
    return split_rows([[text] for text, _ in rows], [label for _, label in rows])


def by_part(rows: list[Row], parts: list[Split]) -> dict[Split, list[Row]]:
    found: dict[Split, list[Row]] = defaultdict(list)
    for row, part in zip(rows, parts, strict=True):
        found[part].append(row)
    return found


def many(count: int, seed: int = 0) -> list[Row]:
    """Different texts, each of one of four labels."""
    draw = random.Random(seed)
    rows = [
        (f"{' '.join(draw.choices(WORDS, k=8))} {n * 7919} {n}", f"label {n % 4}")
        for n in range(count)
    ]
    draw.shuffle(rows)
    return rows


@given(data)
def test_no_text_is_in_two_parts(rows: list[Row]) -> None:
    parts: dict[str, set[Split]] = defaultdict(set)
    for (text, _), part in zip(rows, split(rows), strict=True):
        parts[text].add(part)
    assert all(len(found) == 1 for found in parts.values())


@given(data, st.randoms(use_true_random=False))
def test_a_shuffled_file_is_split_alike(rows: list[Row], draw: random.Random) -> None:
    shuffled = list(rows)
    draw.shuffle(shuffled)
    first, second = (by_part(some, split(some)) for some in (rows, shuffled))
    assert {part: Counter(found) for part, found in first.items()} == {
        part: Counter(found) for part, found in second.items()
    }


@given(data)
def test_frequent_labels_are_in_train(rows: list[Row]) -> None:
    train = {label for _, label in by_part(rows, split(rows))["train"]}
    counts = Counter(label for _, label in rows)
    assert {label for label, count in counts.items() if count >= KEPT} <= train


@settings(max_examples=20)
@given(st.lists(texts, min_size=30, max_size=60), st.integers(0, 3))
def test_the_check_finds_no_leak(found: list[str], copies: int) -> None:
    # Texts with one more word are nearly the same as without it.
    rows = [(f"{text} number {n}" if n <= copies else text, "") for n in range(6) for text in found]
    parts = by_part(rows, split(rows))
    groups = {
        part: [Example(text, "x", origin=f"{part}:{i}") for i, (text, _) in enumerate(held)]
        for part, held in sorted(parts.items(), key=lambda item: item[0] != TRAIN)
    }
    kinds = {finding.kind for finding in check_examples(groups)}
    assert not kinds & {"leak_exact", "leak_near"}


def test_nearly_equal_texts_of_dev_and_test_are_in_one_part() -> None:
    rows = many(400)
    rows += [(f"{text} !", label) for text, label in rows[:200]]
    of = {text: part for (text, _), part in zip(rows, split(rows), strict=True)}
    assert len(set(of.values())) == 3
    assert all(of[text] == of[f"{text} !"] for text, _ in rows[:200])


def test_a_fifth_of_each_label_is_tested_and_dev_needs_300_prompts() -> None:
    rows = many(200)
    assert Counter(split(rows)) == {"train": 160, "test": 40}
    tested = by_part(rows, split(rows))["test"]
    assert Counter(label for _, label in tested) == {f"label {n}": 10 for n in range(4)}
    assert Counter(split(many(400))) == {"train": 280, "test": 80, "dev": 40}
    assert set(split(many(19))) == {"train"}


def test_large_data_have_a_test_part_of_a_thousand() -> None:
    counts = Counter(split(many(8000)))
    assert abs(counts["test"] - 1000) <= 4
    assert abs(counts["dev"] - 500) <= 4


def test_conversations_with_a_common_prompt_stay_together() -> None:
    own = [[f"{text} a", f"{text} a more"] for text, _ in many(40)]
    rows = [["hello", *texts] if n < 8 else texts for n, texts in enumerate(own)]
    parts = split_rows(rows, [""] * len(rows))
    assert len(set(parts[:8])) == 1
    assert set(parts) == {"train", "test"}


def test_rows_without_a_prompt_are_kept_in_train() -> None:
    rows = [*([text] for text, _ in many(40)), [], [], []]
    assert split_rows(rows, [""] * 43)[40:] == ["train"] * 3
