"""What a model keeps of tasks that it learned one after another (TRACE, arXiv 2310.06762).

R[t, i] is the score on task i after training on task t, both from 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["backward_transfer", "format_validity", "overall_performance"]


def overall_performance(scores: NDArray[np.float64], after: int) -> float:
    """OP_t: the mean score on the tasks learned so far, once the one with number `after` is.

    Args:
        scores: R, (tasks, tasks).
        after: t, from 0.
    """
    return float(scores[after, : after + 1].mean())


def backward_transfer(scores: NDArray[np.float64], *, by_tasks: bool = False) -> float:
    """BWT: how the scores of earlier tasks change until the last is learned; below 0 is forgetting.

    Args:
        scores: R, (tasks, tasks); two tasks or more.
        by_tasks: Divide by the number of tasks T, as the formula is said to be printed, and not by
            T - 1, which the paper's tables agree with.

    Raises:
        DataError: There is one task only.
    """
    tasks = len(scores)
    if tasks < 2:
        raise DataError("backward transfer is about earlier tasks, and there is one task only.")
    changes = scores[-1, :-1] - np.diagonal(scores)[:-1]
    return float(changes.sum() / (tasks if by_tasks else tasks - 1))


def format_validity(answers: Sequence[str], known: Sequence[str], *, closed: bool) -> float:
    """The share of answers that have the task's form, 0 to 1, right or not.

    Exact match scores an answer of another form like a wrong one: after training on another task a
    model may know the answer and write it otherwise.

    Args:
        answers: Of a model.
        known: Answers as they should look: a task's own.
        closed: Whether these are all that there are; else JSON objects are known by their keys, and
            any other text is valid where it is not empty.
    """
    if closed:
        labels = {answer.strip() for answer in known}
        return float(np.mean([answer.strip() in labels for answer in answers]))
    keys = _keys(known[0]) if known else None
    if keys is None:
        return float(np.mean([bool(answer.strip()) for answer in answers]))
    return float(np.mean([_keys(answer) == keys for answer in answers]))


def _keys(text: str) -> frozenset[str] | None:
    """Of a JSON object; None where the text is none."""
    import json

    try:
        found = json.loads(text)
    except ValueError:
        return None
    return frozenset(found) if isinstance(found, dict) else None
