"""Deferral networks: small networks that learn when a level should defer an input.

A network maps a level's likelihoods to 128 hidden units (ReLU) and then to a probability of
deferring. The level defers if it is above one half (Nie et al., arXiv 2402.04513). Training uses
the inputs that the top model has labeled and minimizes the sum of a calibration and a cost term:

    Σ_j (d_j - min(1, [ŷ_j ≠ y] + calibration_j))²                     calibration
  + Σ_j (Π_{k<j} d_k) · ((1 - d_j) · CE_j + d_j · μ · c_j)             expected cost

Here d_j is the deferral probability at level j and CE_j is its cross entropy. c_j is the cost of
the next level relative to the top model, and μ is the price of a call to the top model in nats.
The published code applies a second softmax to the likelihoods before the cross entropy; this
code does not.
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

_HIDDEN = 128
_WEIGHT_DECAY = 1e-4
_LEAST = 1e-6


class Deferral:
    """Deferral networks of all lower levels, trained together.

    Args:
        labels: Number of labels.
        calibration: Calibration value of each level.
        learning_rate: Learning rate of Adam.
        price: μ: price of a call to the top model, in nats.
        seed: Seed of the networks' initialization.
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
        """Return the probability that a level should defer each text, (texts,)."""
        with torch.inference_mode():
            found = self._probability(level, torch.from_numpy(likelihoods).float())
        return found.double().numpy()

    def learn(
        self,
        likelihoods: Sequence[NDArray[np.float64]],
        labels: NDArray[np.int64],
        costs: Sequence[float],
    ) -> float:
        """Take one optimizer step on inputs that the top model has labeled.

        Args:
            likelihoods: Label likelihoods of each level, (texts, labels) each.
            labels: Labels of the top model, (texts,).
            costs: c of each level: cost of the next level relative to the top model.

        Returns:
            The mean loss per text before the step.
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
        """Return the state of the networks and of the optimizer."""
        # The next step changes these tensors in place, so they are copied.
        return copy.deepcopy(
            {
                "networks": self._networks.state_dict(),
                "optimizer": self._optimizer.state_dict(),
            }
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state`."""
        self._networks.load_state_dict(state["networks"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _probability(self, level: int, likelihoods: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._networks[level](likelihoods)
        return torch.sigmoid(logits[:, 0])
