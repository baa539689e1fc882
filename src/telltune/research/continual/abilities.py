"""Abilities beside the tasks: general ability, instruction following and safety.

TRACE (arXiv 2310.06762) calls the mean change against the base ΔG, ΔI and ΔS. Items that occur in
the training data say nothing about an ability, so they are left out.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Literal

from telltune.data.checks import question
from telltune.data.minhash import near_matches

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from telltune.data.examples import Example

Ability = Literal["general", "instructions", "safety"]
ABILITIES: dict[Ability, str] = {"general": "ΔG", "instructions": "ΔI", "safety": "ΔS"}
"""Name of the mean change in the paper, by ability."""


def unseen_items(items: Sequence[Example], trained: Iterable[Example]) -> list[Example]:
    """Return the items whose prompts do not occur, exactly or nearly, in the training data.

    Args:
        items: Items of an ability.
        trained: Task and general examples.
    """
    known = {question(example) for example in trained}
    asked = [question(item) for item in items]
    near = {match.query for match in near_matches(asked, list(known))}
    return [item for i, item in enumerate(items) if asked[i] not in known and i not in near]


def mean_change(scores: Mapping[str, Sequence[float]]) -> float:
    """Return the mean change of an ability's tasks, in points.

    Args:
        scores: Score of the base and score after the last task, by task.
    """
    return fmean(after - before for before, after in scores.values())
