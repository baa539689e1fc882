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

_MOST_TO_MEAN = 2
"""A label may come so many times as often as labels do on average."""


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
    read = [read_label(answer, labels) if labels else answer for answer in answers]
    said = Counter(same_text(text) for text in read if text and same_text(text))
    if not said:
        return "", 0.0, "label" if labels else "empty"
    words, count = said.most_common(1)[0]
    share = count / len(answers)
    answer = next(text for text in read if text and same_text(text) == words)
    if share < consistency:
        return answer, share, "inconsistent"
    return answer, share, None if labels else filtered.reason(answer)


def balanced(examples: Sequence[Example], labels: Sequence[str]) -> list[Example]:
    """No label more than twice as often as labels come on average; free text as it is.

    Args:
        examples: The first of a label are kept.
        labels: Of the closed set, those that never came among them; none for free text.
    """
    if not labels:
        return list(examples)
    most = max(1, _MOST_TO_MEAN * len(examples) // len(labels))
    taken: Counter[str] = Counter()
    found = []
    for example in examples:
        taken[example.completion] += 1
        if taken[example.completion] <= most:
            found.append(example)
    return found
