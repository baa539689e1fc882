"""Training data of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from telltune.data.encoded import EncodedSet
    from telltune.data.mixture import Mixture
    from telltune.training.loss import LossWeights

__all__ = ["TrainingData"]


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
