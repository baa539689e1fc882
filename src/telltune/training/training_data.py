"""Training data of a run, and the weights of its response tokens in the loss.

With the usual average over tokens, a task response of three tokens has almost no weight next to
general responses of two hundred tokens. An average over examples or sources gives it more weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from telltune.data.encoded import EncodedSet
    from telltune.data.mixture import Mixture
    from telltune.recipe import LossAverage


@dataclass(frozen=True)
class TrainingData:
    """Training data of a run and their order.

    Attributes:
        task: Encoded task data.
        general: Encoded general data, or None.
        mixture: Mixture, which defines the examples of each step.
        epochs: Number of epochs of the mixture.
        weights: Weights of response tokens in the loss.
    """

    task: EncodedSet
    general: EncodedSet | None
    mixture: Mixture
    epochs: int
    weights: LossWeights


@dataclass(frozen=True)
class LossWeights:
    """Weights of the response tokens of a step.

    With w the weight of the source of a token or example:

    - `token`: Σ w·nll / Σ w over the response tokens of the step, the usual average.
    - `example`: mean over examples of their mean nll, weighted by w.
    - `source`: as `example`, with each source scaled so that the shares of the sources over the
      whole mixture are `task_weight` to `general_weight`, for any numbers of examples. The factor
      is fixed for the run; a batch without task examples is not scaled up.

    Attributes:
        average: Kind of average: `token`, `example` or `source`.
        task_weight: Weight of task data.
        general_weight: Weight of general data.
        task_share: Number of task examples / number of all examples in the mixture.
    """

    average: LossAverage
    task_weight: float = 1.0
    general_weight: float = 1.0
    task_share: float = 0.5

    def of(
        self, is_task: NDArray[np.bool_], response_lengths: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the weight of every token of each example of a step.

        Args:
            is_task: Whether each example is task data, (examples,).
            response_lengths: Number of tokens with loss, (examples,).

        Returns:
            Weights, (examples,); Σ weight · response length is 1 for `token` and `example`.
        """
        weights = np.where(is_task, self.task_weight, self.general_weight).astype(np.float64)
        lengths = np.maximum(response_lengths, 1)
        if self.average == "token":
            return weights / max(float((weights * lengths).sum()), 1e-12)
        if self.average == "example":
            return weights / lengths / max(float(weights.sum()), 1e-12)
        shares = np.where(is_task, self.task_share, 1 - self.task_share)
        # With a single source this equals `example`.
        present = self.task_weight * (self.task_share > 0)
        present += self.general_weight * (self.task_share < 1)
        return weights / (np.maximum(shares, 1e-12) * present * lengths * len(lengths))


def step_places(mixture: Mixture, step: int) -> list[tuple[bool, int]]:
    """Return the examples of an optimizer step, counted from 0, as (is task data, index)."""
    epoch, place = divmod(step, mixture.batches_per_epoch)
    start = place * mixture.batch_size
    return mixture.slots(epoch, start, min(start + mixture.batch_size, len(mixture))).pairs
