"""What a run trains on."""

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
    """What a run trains on, and in which order.

    Attributes:
        task: The task data, encoded.
        general: The general data, encoded, or None.
        mixture: Which examples each step sees.
        epochs: How often the mixture is run through.
        weights: How each token counts.
    """

    task: EncodedSet
    general: EncodedSet | None
    mixture: Mixture
    epochs: int
    weights: LossWeights
