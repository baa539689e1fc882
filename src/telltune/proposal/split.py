"""Split of rows into train, dev and test parts that share no prompt.

The parts depend on the contents of the rows alone, and not on their order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from telltune.data.embedded.stable import stable_number
from telltune.data.minhash import near_matches

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from telltune.data.files import Split

TEST_SHARE, DEV_SHARE = 0.2, 0.1
MOST_TEST, MOST_DEV = 1000, 500
LEAST_FOR_TEST, LEAST_FOR_DEV = 20, 300
"""Number of different prompts from which on there is a test or a dev part.

A tenth of 300 is 30 dev examples. Fewer say little, and the labels are worth more in training.
"""
KEPT = 3
"""Number of rows from which on a label is always in the train part."""


def split_rows(questions: Sequence[Sequence[str]], labels: Sequence[str]) -> list[Split]:
    """Return the part of each row.

    Of each label, a fifth of the rows goes to test (at most 1,000 in all) and a tenth to dev (at
    most 500). There is no test part below 20 different prompts, and no dev part below 300. Rows
    with the same prompt are in one part. Afterwards, rows of test and dev with nearly the prompt of
    a train row (see `near_matches`) are moved to train.

    Args:
        questions: Prompts of each row, as `telltune.data.checks.question` returns them. A
            conversation has several.
        labels: Label of each row; the same for all if the task has none.
    """
    groups = _Groups(questions, labels)
    parts = groups.drawn()
    while moved := groups.near_train(parts) or groups.missing_labels(parts):
        parts |= dict.fromkeys(moved, "train")
    while moved := groups.dev_near_test(parts):
        parts |= dict.fromkeys(moved, "test")
    return [parts[group] for group in groups.of_row]


class _Groups:
    """Groups of rows that share prompts, in an order that depends on the prompts alone.

    Attributes:
        of_row: Number of each row's group.
    """

    def __init__(self, questions: Sequence[Sequence[str]], labels: Sequence[str]) -> None:
        asked = sorted({text for row in questions for text in row})
        self.of_row, of_text = _connected(questions, asked)
        self._texts: dict[int, list[str]] = defaultdict(list)
        for text, group in zip(asked, of_text, strict=True):
            self._texts[group].append(text)
        self._labels: dict[int, set[str]] = defaultdict(set)
        for group, label in zip(self.of_row, labels, strict=True):
            self._labels[group].add(label)
        self._counts = Counter(
            label for texts, label in zip(questions, labels, strict=True) if texts
        )
        # A row without a prompt cannot be ordered by it, and stays in train.
        self._order = sorted(
            self._texts, key=lambda group: min((stable_number(t), t) for t in self._texts[group])
        )

    def drawn(self) -> dict[int, Split]:
        """Return the part of each group, stratified by label."""
        parts: dict[int, Split] = dict.fromkeys(self.of_row, "train")
        count = len(self._order)
        if count < LEAST_FOR_TEST:
            return parts
        test = min(TEST_SHARE, MOST_TEST / count)
        dev = min(DEV_SHARE, MOST_DEV / count) if count >= LEAST_FOR_DEV else 0.0
        strata: dict[str, list[int]] = defaultdict(list)
        for group in self._order:
            strata[min(self._labels[group])].append(group)
        for members in strata.values():
            tested = int(test * len(members) + 0.5)
            held = tested + int(dev * len(members) + 0.5)
            parts |= dict.fromkeys(members[:tested], "test")
            parts |= dict.fromkeys(members[tested:held], "dev")
        return parts

    def near_train(self, parts: dict[int, Split]) -> set[int]:
        """Return the groups of dev and test with nearly the prompt of a train group."""
        train = self._of(parts, "train")
        held = self._of(parts, "dev") + self._of(parts, "test")
        # Either direction compares only some pairs of a large bucket. The second is that of
        # `check_examples`.
        return self._near(held, train) or self._near(held, train, by_train=True)

    def dev_near_test(self, parts: dict[int, Split]) -> set[int]:
        """Return the dev groups with nearly the prompt of a test group."""
        return self._near(self._of(parts, "dev"), self._of(parts, "test"))

    def missing_labels(self, parts: dict[int, Split]) -> set[int]:
        """Return a group for each frequent label that no train group has."""
        train = [group for group in self._order if parts[group] == "train"]
        known = set[str]().union(*(self._labels[group] for group in train))
        frequent = sorted(label for label, count in self._counts.items() if count >= KEPT)
        return {
            next(group for group in self._order if label in self._labels[group])
            for label in frequent
            if label not in known
        }

    def _of(self, parts: dict[int, Split], part: Split) -> list[tuple[str, int]]:
        """Return the prompts of a part, each with its group."""
        groups = [group for group in self._order if parts[group] == part]
        return [(text, group) for group in groups for text in self._texts[group]]

    @staticmethod
    def _near(
        held: list[tuple[str, int]], others: list[tuple[str, int]], *, by_train: bool = False
    ) -> set[int]:
        first, second = ([text for text, _ in side] for side in (held, others))
        if by_train:
            return {held[match.other][1] for match in near_matches(second, first)}
        return {held[match.query][1] for match in near_matches(first, second)}


def _connected(
    questions: Sequence[Sequence[str]], asked: Sequence[str]
) -> tuple[list[int], Iterable[int]]:
    """Return the group of each row and of each prompt: rows with a common prompt are connected."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    place = {text: i for i, text in enumerate(asked, start=len(questions))}
    pairs = np.array([(row, place[t]) for row, texts in enumerate(questions) for t in texts])
    rows, columns = pairs.reshape(-1, 2).T
    size = len(questions) + len(asked)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    found = connected_components(graph, directed=False)[1].tolist()
    return found[: len(questions)], found[len(questions) :]
