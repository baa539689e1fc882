"""How far each task example can be trusted, and what that scales (arXiv 2412.09046).

With c the confidence of an example, *output* makes its loss c·NLL, so that it moves the adapter
less; *input* makes the embeddings of its whole prompt c·E(x), anchor and chat template included, so
that the model can tell doubtful examples apart. At inference nothing is scaled, as if every
question could be trusted.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from telltune.models.packing import PackedBatch

__all__ = ["Confidence", "scaled_prompts"]


@dataclass(frozen=True)
class Confidence:
    """Of the task's examples; general ones are trusted.

    Attributes:
        values: Above 0 and up to 1, (task examples,).
        scale: What is multiplied by it.
    """

    values: NDArray[np.float64]
    scale: Literal["output", "input", "both"]

    def of(self, is_task: NDArray[np.bool_], index: NDArray[np.int64]) -> NDArray[np.float64]:
        """The confidence of each place of a mixture, (n,)."""
        found = np.ones(len(index))
        found[is_task] = self.values[index[is_task]]
        return found

    @property
    def scales_prompts(self) -> bool:
        """Whether it scales embeddings, so that only equally trusted examples share a prefix."""
        return self.scale != "output"

    @property
    def scales_losses(self) -> bool:
        """Whether it scales the loss."""
        return self.scale != "input"


@contextmanager
def scaled_prompts(model: Any, batch: PackedBatch, scale: torch.Tensor) -> Iterator[None]:
    """Multiply the embeddings of each example's prompt while the context lasts.

    Args:
        model: A model that looks up its input embeddings once in a forward pass.
        batch: The row that is computed. A prefix is computed once for all examples that share it,
            so these must have the same factor (`pack` keeps apart what differs in `sources`).
        scale: The factor of each of the caller's examples, (examples,).
    """
    asks = batch.asks[0]
    factors = torch.where(asks >= 0, scale[asks.clamp(min=0)], 1.0)[None, :, None]

    def multiply(module: Any, inputs: Any, embedded: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
        return embedded * factors.to(embedded.device, embedded.dtype)

    handle = model.get_input_embeddings().register_forward_hook(multiply)
    try:
        yield
    finally:
        handle.remove()
