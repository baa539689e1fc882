"""What one optimizer step minimizes: response tokens, weighted by source and length.

With the usual average over tokens, a task response of three tokens drowns among general responses
of two hundred; averaging over examples or over sources lets it count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from telltune.recipe import LossAverage

__all__ = ["LossWeights"]


@dataclass(frozen=True)
class LossWeights:
    """How much each response token of a step counts.

    With N tokens or examples in the step, w the weight of each one's source:

    - `token`: Σ w·nll / Σ w over the step's response tokens. What peers do.
    - `example`: the mean over examples of each one's mean nll, weighted by w.
    - `source`: as `example`, each source scaled so that over the whole mixture the sources' shares
      are as `task_weight` to `general_weight`, however many examples each has. The factor is fixed
      for the run; a batch that happens to hold no task example is not scaled up.

    Attributes:
        average: Which of the three.
        task_weight: Of task data.
        general_weight: Of general data.
        task_share: Task examples / all examples in the mixture.
    """

    average: LossAverage
    task_weight: float = 1.0
    general_weight: float = 1.0
    task_share: float = 0.5

    def of(
        self, is_task: NDArray[np.bool_], response_lengths: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The weight of each token of each example of a step.

        Args:
            is_task: (examples,).
            response_lengths: Tokens with loss, (examples,).

        Returns:
            (examples,); Σ weight · response length is 1 for `token` and `example`.
        """
        weights = np.where(is_task, self.task_weight, self.general_weight).astype(np.float64)
        lengths = np.maximum(response_lengths, 1)
        if self.average == "token":
            return weights / max(float((weights * lengths).sum()), 1e-12)
        if self.average == "example":
            return weights / lengths / max(float(weights.sum()), 1e-12)
        shares = np.where(is_task, self.task_share, 1 - self.task_share)
        # With one source alone its share is the whole, and this is `example`.
        present = self.task_weight * (self.task_share > 0)
        present += self.general_weight * (self.task_share < 1)
        return weights / (np.maximum(shares, 1e-12) * present * lengths * len(lengths))
