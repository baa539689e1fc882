"""Metrics of continual learning on a sequence of tasks (TRACE, arXiv 2310.06762).

R[t, i] is the score on task i after training on task t; both indices start at 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from telltune.errors import DataError
from telltune.evaluation.forgetting import task_format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def overall_performance(scores: NDArray[np.float64], after: int) -> float:
    """Return OP_t, the mean score on tasks 0 to t after training on task t.

    Args:
        scores: R, (tasks, tasks).
        after: Index t of the task, from 0.
    """
    return float(scores[after, : after + 1].mean())


def backward_transfer(scores: NDArray[np.float64], *, by_tasks: bool = False) -> float:
    """Return BWT, the mean change of earlier tasks' scores until the last task is learned.

    A negative value means forgetting.

    Args:
        scores: R, (tasks, tasks); two tasks or more.
        by_tasks: Divide by the number of tasks T, as in the printed formula. The default divides by
            T - 1, which agrees with the paper's tables.

    Raises:
        DataError: There is only one task.
    """
    tasks = len(scores)
    if tasks < 2:
        raise DataError("backward transfer needs two tasks or more, but there is only one.")
    changes = scores[-1, :-1] - np.diagonal(scores)[:-1]
    return float(changes.sum() / (tasks if by_tasks else tasks - 1))


def format_validity(answers: Sequence[str], completions: Sequence[str]) -> float:
    """Return the share of answers in the task's format, 0 to 1, whether or not they are right.

    Exact match counts a right answer in another format as wrong, as can happen after training on
    another task. If the task's answers have no recognizable format, every non-empty text is valid.

    Args:
        answers: Answers of a model.
        completions: Completions of the task's training examples.
    """
    looks = task_format(completions) or (lambda answer: bool(answer.strip()))
    return sum(map(looks, answers)) / len(answers)
