"""Meta-learning finds initial weights on families of toy tasks with known optima."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from telltune.fitting.meta_init import Algorithm, Episode, adapt, meta_gradient, task_chances

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

CENTRE = torch.tensor([1.0, -2.0, 0.5])
RATE = 0.1


def loss(weights: Mapping[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean squared error of a linear regression."""
    x, y = batch
    return ((x @ weights["w"] - y) ** 2).mean()


def episode(generator: torch.Generator, steps: int = 3) -> Episode:
    """Return noiseless batches of a task whose true weights are near the center."""
    true = CENTRE + 0.3 * torch.randn(3, generator=generator)
    batches = [torch.randn(8, 3, generator=generator) for _ in range(steps + 1)]
    *support, query = [(x, x @ true) for x in batches]
    return Episode(support, query)


def test_inner_steps_are_gradient_descent() -> None:
    start = {"w": torch.zeros(3, requires_grad=True)}
    x, y = torch.eye(3), torch.tensor([3.0, 0.0, -3.0])
    # d/dw of the mean of (w - y)² is 2 (w - y) / 3.
    found = adapt(start, loss, [(x, y)], 0.3)
    torch.testing.assert_close(found["w"].detach(), 0.2 * y)


def test_maml_is_the_derivative_through_the_inner_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    one = episode(generator)
    start = {"w": torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_()}
    double = Episode(
        [(x.double(), y.double()) for x, y in one.support], tuple(t.double() for t in one.query)
    )
    found, _ = meta_gradient("maml", start, loss, [double], RATE)

    def outer(w: Tensor) -> Tensor:
        moved = adapt({"w": w.clone().requires_grad_()}, loss, double.support, RATE)
        return loss(moved, double.query).detach()

    step = 1e-6
    for i in range(3):
        nudge = torch.zeros(3, dtype=torch.float64)
        nudge[i] = step
        slope = (outer(start["w"].detach() + nudge) - outer(start["w"].detach() - nudge)) / (
            2 * step
        )
        assert float(found["w"][i]) == pytest.approx(float(slope), rel=1e-4)
    first_order, _ = meta_gradient("fomaml", start, loss, [double], RATE)
    assert not torch.allclose(first_order["w"], found["w"])


@pytest.mark.parametrize(("algorithm", "rate"), [("maml", 0.1), ("fomaml", 0.1), ("reptile", 0.2)])
def test_the_start_goes_to_the_middle_of_the_family(algorithm: Algorithm, rate: float) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = {"w": torch.zeros(3)}
    first = last = 0.0
    for step in range(300):
        weights["w"].requires_grad_()
        episodes = [episode(generator) for _ in range(4)]
        direction, seen = meta_gradient(algorithm, weights, loss, episodes, RATE)
        weights = {"w": (weights["w"] - rate * direction["w"]).detach()}
        first, last = (seen, last) if step == 0 else (first, seen)
    assert (weights["w"] - CENTRE).abs().max() < 0.15
    assert last < first / 5


def test_tasks_are_visited_as_often_as_asked() -> None:
    sizes = [10, 30, 60]
    np.testing.assert_allclose(task_chances(sizes, "uniform"), 1 / 3)
    np.testing.assert_allclose(task_chances(sizes, "proportional"), [0.1, 0.3, 0.6])
    np.testing.assert_allclose(
        task_chances(sizes, "mixed"), [(1 / 3 + p) / 2 for p in (0.1, 0.3, 0.6)]
    )
