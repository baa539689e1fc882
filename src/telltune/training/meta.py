"""Meta-learning of initial weights by MAML, first-order MAML and Reptile (as in arXiv 1908.10423).

With θ the initial weights, and θ' the weights after gradient descent on a task's support batches:

- MAML (Finn et al., arXiv 1703.03400): θ ← θ - β ∇_θ L_query(θ'), through the inner steps.
- FOMAML: θ ← θ - β ∇_θ' L_query(θ'): as if θ' did not depend on θ.
- Reptile (Nichol et al., arXiv 1803.02999): θ ← θ + ε · mean(θ' - θ); needs no query batch.

This module is independent of language models. Weights are tensors by name, and a loss is a function
of weights.
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
    """Batches of one visit to a task.

    Attributes:
        support: One batch per inner step.
        query: Batch of the outer loss of MAML and FOMAML, and of Reptile's last inner step.
    """

    support: Sequence[B]
    query: B


def task_chances(sizes: Sequence[int], sampling: Sampling) -> NDArray[np.float64]:
    """Return the probability of visiting each task, (tasks,).

    Args:
        sizes: Number of examples of each task.
        sampling: Uniform, proportional to the sizes, or the mean of the two.
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
    """Return the weights after gradient descent with one step per batch.

    Args:
        weights: Initial weights; they must require gradients.
        loss: Function from weights and a batch to a scalar.
        batches: One batch per step.
        learning_rate: Learning rate of the steps.
        second_order: Whether to keep the graph for derivatives with respect to `weights`.
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
    """Return the meta-gradient of the initial weights, to be used like a gradient.

    Args:
        algorithm: Meta-learning algorithm; see the module's description.
        weights: Initial weights; they must require gradients.
        loss: Function from weights and a batch to a scalar.
        episodes: One or more episodes.
        learning_rate: Learning rate of the inner steps.

    Returns:
        Mean meta-gradient over episodes by name, and mean query loss at θ', before Reptile's step
        on the query.
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
