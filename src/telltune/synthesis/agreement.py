"""What several samples agree on, and as much of one label as of another."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from telltune.inference.label_names import read_label, same_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example
    from telltune.synthesis.filters import TextFilter

__all__ = ["agreed", "balanced"]

_MOST_TO_OTHERS = 2
"""How many times as often as the other labels, on average, a label may come."""


def agreed(
    answers: Sequence[str], labels: Sequence[str], consistency: float, filtered: TextFilter
) -> tuple[str, float, str | None]:
    """The answer that most samples give, their share, and why it is refused.

    Args:
        answers: To one input.
        labels: Of a closed set; an answer counts as the one that it names. None for free text.
        consistency: Least share that an answer needs.
        filtered: Looks at free text.

    Returns:
        The answer, its share of all samples, and `label` (none names one), `empty`, `inconsistent`
        or the filter's reason; None keeps it.
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
    """Leave out examples so that no label comes more than twice as often as the others on average.

    The average is taken over all other labels, those that never came included, and over what is
    kept. With two labels one is kept at most twice as often as the other. One example of a label is
    always kept.

    Args:
        examples: The first of each label are kept.
        labels: Of the closed set, at least two; with fewer, or with free text, nothing is balanced.
        most: How many examples to keep at most, of all labels evenly; all if None.

    Returns:
        What is kept, in the given order.
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
    """The most examples of one label that the others' counts, capped alike, still allow."""
    for cap in range(max(counts), 1, -1):
        total = sum(min(count, cap) for count in counts)
        if cap * (len(counts) - 1) <= _MOST_TO_OTHERS * (total - cap):
            return cap
    return 1
