"""Filters for texts that a model generated: form, agreement between samples, balance of labels."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from telltune.inference.labels import read_label, same_text, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example

# Phrases that introduce or replace an answer. Quotes and Markdown may precede them.
_OPENERS = re.compile(
    r"[\s\"'*_#>`]*(?:"
    r"(?:sure|certainly|of course|okay|here(?: is| are|['’]s)|as an ai|i['’]m sorry|i am sorry|"
    r"i cannot|i can['’]t|unfortunately)(?!\w)"
    r"|(?:input|output|question|answer)(?: \d+)?[*_ ]*[:：])",
    re.IGNORECASE,
)
_DEVIATIONS = 2
_LEAST_SPREAD = 0.5
"""Minimum length tolerance as a share of the mean, for demonstrations of nearly equal length."""


@dataclass
class TextFilter:
    """Rejects texts that are empty, boilerplate, length outliers or duplicates.

    Attributes:
        demonstrations: Examples of the wanted texts.
        distinct: Whether duplicates are rejected.
    """

    demonstrations: Sequence[str]
    distinct: bool = True
    _seen: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        lengths = [len(words(text)) for text in self.demonstrations]
        mean = fmean(lengths)
        spread = max(_DEVIATIONS * pstdev(lengths), _LEAST_SPREAD * mean, 1)
        self.shortest, self.longest = mean - spread, mean + spread
        self._openers = not any(_OPENERS.match(text) for text in self.demonstrations)
        if self.distinct:
            self._seen = {same_text(text) for text in self.demonstrations}

    def reason(self, text: str) -> str | None:
        """Return why a text is rejected, or None, in which case the text is remembered.

        The reasons are `empty`, `opener`, `length` and `duplicate`.
        """
        key = same_text(text)
        if not key:
            return "empty"
        # If a demonstration has such an opening, it is part of the task.
        if self._openers and _OPENERS.match(text):
            return "opener"
        if not self.shortest <= len(words(text)) <= self.longest:
            return "length"
        if self.distinct and key in self._seen:
            return "duplicate"
        self._seen.add(key)
        return None


_MOST_TO_OTHERS = 2
"""Maximum ratio of a label's count to the mean count of the other labels."""


def agreed(
    answers: Sequence[str], labels: Sequence[str], consistency: float, filtered: TextFilter
) -> tuple[str, float, str | None]:
    """Return the most frequent answer, its share, and why it is rejected.

    Args:
        answers: Sampled answers to one input.
        labels: Closed set of labels; an answer counts as the label that it names. Empty for free
            text.
        consistency: Minimum share of the samples that must agree.
        filtered: Filter applied to free text.

    Returns:
        The answer, its share of all samples, and the reason for rejecting it: `label` (no answer
        names a label), `empty`, `inconsistent` or the filter's reason; None if it is kept.
    """
    if labels:
        read = [(label, label) for label in (read_label(a, labels) for a in answers) if label]
    else:
        read = [(same_text(answer), answer) for answer in answers if same_text(answer)]
    if not read:
        return "", 0.0, "label" if labels else "empty"
    said, count = Counter(key for key, _ in read).most_common(1)[0]
    share = count / len(answers)
    answer = next(answer for key, answer in read if key == said)
    if share < consistency:
        return answer, share, "inconsistent"
    return answer, share, None if labels else filtered.reason(answer)


def balanced(
    examples: Sequence[Example], labels: Sequence[str], most: int | None = None
) -> list[Example]:
    """Drop examples so that no label occurs more than twice as often as the others on average.

    The average is over the kept examples of all other labels, including labels without examples.
    With two labels, one is kept at most twice as often as the other. At least one example of each
    label is kept.

    Args:
        examples: Examples to balance; the first ones of each label are kept.
        labels: Closed set of labels. With fewer than two labels, or free text, nothing is balanced.
        most: Maximum number of examples to keep, drawn evenly from the labels; None keeps all.

    Returns:
        The kept examples, in the given order.
    """
    if len(labels) < 2:
        return list(examples[:most])
    counts: Counter[str] = Counter()
    ranks = []
    for example in examples:
        ranks.append(counts[example.completion])
        counts[example.completion] += 1
    cap = _cap([counts[label] for label in labels])
    kept = [i for i, rank in enumerate(ranks) if rank < cap]
    kept = sorted(kept, key=lambda i: ranks[i])[:most]
    return [examples[i] for i in sorted(kept)]


def _cap(counts: Sequence[int]) -> int:
    """Return the largest cap per label that meets the ratio when it applies to all labels."""
    for cap in range(max(counts), 1, -1):
        total = sum(min(count, cap) for count in counts)
        if cap * (len(counts) - 1) <= _MOST_TO_OTHERS * (total - cap):
            return cap
    return 1
