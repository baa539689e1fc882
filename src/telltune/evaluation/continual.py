"""What a model keeps of tasks that it learned one after another (TRACE, arXiv 2310.06762).

R[t, i] is the score on task i after training on task t, both from 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from telltune.errors import DataError
from telltune.evaluation.forgetting import task_format

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


def format_validity(answers: Sequence[str], completions: Sequence[str]) -> float:
    """The share of answers that have the task's form, 0 to 1, right or not.

    Exact match scores an answer of another form like a wrong one: after training on another task a
    model may know the answer and write it otherwise. Where nothing marks a task's answers, any text
    is valid that is not empty.

    Args:
        answers: Of a model.
        completions: Of the task's training examples.
    """
    looks = task_format(completions) or (lambda answer: bool(answer.strip()))
    return sum(map(looks, answers)) / len(answers)
