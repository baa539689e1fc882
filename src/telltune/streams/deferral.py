"""Whether a level's answer is good enough: a small network that learns to hand an input on.

From a level's likelihoods to 128 hidden units (ReLU) to a probability of deferring; above one half
it defers (Nie et al., arXiv 2402.04513). It learns from inputs that the top has labelled:

    Σ_j (d_j - min(1, [ŷ_j ≠ y] + calibration_j))²                     was it right to answer?
  + Σ_j (Π_{k<j} d_k) · ((1 - d_j) · CE_j + d_j · μ · c_j)             what it costs in the end

with d_j the probability at level j, CE_j its cross entropy, c_j what the next level costs in units
of the top, and μ what a call to the top may cost, in nats. Cross entropy is taken of the
likelihoods as they are: the published code puts them through a softmax a second time.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Deferral"]

_HIDDEN = 128
_WEIGHT_DECAY = 1e-4
_LEAST = 1e-6


class Deferral:
    """The networks of all lower levels, trained together.

    Args:
        labels: How many.
        calibration: Of each level.
        learning_rate: Adam's.
        price: μ.
        seed: Of the networks' start.
    """

    def __init__(
        self,
        labels: int,
        calibration: Sequence[float],
        *,
        learning_rate: float = 7e-4,
        price: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.calibration = torch.tensor(list(calibration))
        self.price = price
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._networks = nn.ModuleList(
                nn.Sequential(nn.Linear(labels, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1))
                for _ in calibration
            )
        self._optimizer = torch.optim.Adam(
            self._networks.parameters(), lr=learning_rate, weight_decay=_WEIGHT_DECAY
        )

    def defers(self, level: int, likelihoods: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probability that a level had better hand on, (texts,)."""
        with torch.inference_mode():
            found = self._probability(level, torch.from_numpy(likelihoods).float())
        return found.double().numpy()

    def learn(
        self,
        likelihoods: Sequence[NDArray[np.float64]],
        labels: NDArray[np.int64],
        costs: Sequence[float],
    ) -> float:
        """One step on inputs that the top has labelled.

        Args:
            likelihoods: Of each level, (texts, labels).
            labels: The top's, (texts,).
            costs: c of each level: what the one above it costs, in units of the top.

        Returns:
            The loss before the step, a text.
        """
        answers = torch.from_numpy(labels)
        reached = torch.ones(len(labels))
        loss = torch.zeros(len(labels))
        for level, (found, cost) in enumerate(zip(likelihoods, costs, strict=True)):
            likely = torch.from_numpy(found).float()
            defer = self._probability(level, likely)
            wrong = (likely.argmax(1) != answers).float()
            target = (wrong + self.calibration[level]).clamp(max=1)
            entropy = -likely.gather(1, answers[:, None])[:, 0].clamp(min=_LEAST).log()
            loss = loss + (defer - target) ** 2
            loss = loss + reached * ((1 - defer) * entropy + defer * self.price * cost)
            reached = reached * defer
        mean = loss.mean()
        self._optimizer.zero_grad()
        mean.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return float(mean.detach())

    def state(self) -> dict[str, Any]:
        """Of networks and optimizer."""
        # A copy: the next step changes what these hold.
        return copy.deepcopy(
            {
                "networks": self._networks.state_dict(),
                "optimizer": self._optimizer.state_dict(),
            }
        )

    def restore(self, state: dict[str, Any]) -> None:
        """As it was."""
        self._networks.load_state_dict(state["networks"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _probability(self, level: int, likelihoods: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._networks[level](likelihoods)
        return torch.sigmoid(logits[:, 0])
