"""A start from which few steps go far: MAML, first-order MAML and Reptile (as in arXiv 1908.10423).

With θ the start, and θ' what some steps of gradient descent on a task's support batches make of it:

- MAML (Finn et al., arXiv 1703.03400): θ ← θ - β ∇_θ L_query(θ'), through the inner steps.
- FOMAML: θ ← θ - β ∇_θ' L_query(θ'): as if θ' did not depend on θ.
- Reptile (Nichol et al., arXiv 1803.02999): θ ← θ + ε · mean(θ' - θ); needs no query batch.

Nothing here knows of language models: weights are tensors by name, a loss is a function of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Algorithm", "Episode", "Sampling", "adapt", "meta_gradient", "task_chances"]

Algorithm = Literal["maml", "fomaml", "reptile"]
Sampling = Literal["uniform", "proportional", "mixed"]
B = TypeVar("B")


@dataclass(frozen=True)
class Episode(Generic[B]):
    """One visit to a task.

    Attributes:
        support: A batch for each inner step.
        query: What MAML and FOMAML are judged by; Reptile takes a last inner step on it.
    """

    support: Sequence[B]
    query: B


def task_chances(sizes: Sequence[int], sampling: Sampling) -> NDArray[np.float64]:
    """How often each task is visited, (tasks,), which sum to 1.

    Args:
        sizes: Examples of each.
        sampling: All alike, by their sizes, or the mean of the two.
    """
    uniform = np.full(len(sizes), 1 / len(sizes))
    proportional = np.asarray(sizes, np.float64) / sum(sizes)
    return {
        "uniform": uniform,
        "proportional": proportional,
        "mixed": (uniform + proportional) / 2,
    }[sampling]


def adapt(
    weights: Mapping[str, Tensor],
    loss: Callable[[Mapping[str, Tensor], B], Tensor],
    batches: Sequence[B],
    learning_rate: float,
    *,
    second_order: bool = False,
) -> dict[str, Tensor]:
    """What gradient descent makes of weights, a step a batch.

    Args:
        weights: The start; they need gradients.
        loss: Of weights on a batch, a scalar.
        batches: One a step.
        learning_rate: Of the steps.
        second_order: Keep the graph, so that the result can be differentiated by the start.
    """
    found = dict(weights)
    for batch in batches:
        slopes = torch.autograd.grad(
            loss(found, batch), list(found.values()), create_graph=second_order
        )
        found = {
            name: value - learning_rate * slope
            for (name, value), slope in zip(found.items(), slopes, strict=True)
        }
        if not second_order:
            found = {name: value.detach().requires_grad_() for name, value in found.items()}
    return found


def meta_gradient(
    algorithm: Algorithm,
    weights: Mapping[str, Tensor],
    loss: Callable[[Mapping[str, Tensor], B], Tensor],
    episodes: Sequence[Episode[B]],
    learning_rate: float,
) -> tuple[dict[str, Tensor], float]:
    """Which way to move the start; against it, as against a gradient.

    Args:
        algorithm: See above.
        weights: The start; they need gradients.
        loss: Of weights on a batch, a scalar.
        episodes: One or more.
        learning_rate: Of the inner steps.

    Returns:
        A direction by name, the mean over episodes; and the mean loss of the queries at θ', before
        Reptile's step on them.
    """
    total = {name: torch.zeros_like(value) for name, value in weights.items()}
    seen = 0.0
    for episode in episodes:
        second_order = algorithm == "maml"
        moved = adapt(weights, loss, episode.support, learning_rate, second_order=second_order)
        query = loss(moved, episode.query)
        seen += float(query.detach()) / len(episodes)
        of = weights if second_order else moved
        slopes = dict(zip(of, torch.autograd.grad(query, list(of.values())), strict=True))
        for name, value in weights.items():
            direction = slopes[name]
            if algorithm == "reptile":
                direction = value.detach() - (moved[name] - learning_rate * slopes[name]).detach()
            total[name] += direction / len(episodes)
    return total, seen
