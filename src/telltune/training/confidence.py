"""Confidence in each task example, and what it scales (arXiv 2412.09046).

With c the confidence of an example, *output* scales its loss to c·NLL, so that the example changes
the adapter less. *input* scales the embeddings of its whole prompt, including anchor and chat
template, to c·E(x), so that the model can distinguish doubtful examples. Nothing is scaled at
inference.
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

    from telltune.models.kernels.packing import PackedBatch


@dataclass(frozen=True)
class Confidence:
    """Confidence in the task examples; general examples have confidence 1.

    Attributes:
        values: Confidence above 0 and up to 1, (task examples,).
        scale: Quantity that the confidence scales: loss, prompt embeddings, or both.
    """

    values: NDArray[np.float64]
    scale: Literal["output", "input", "both"]

    def of(self, is_task: NDArray[np.bool_], index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the confidence of each slot of a mixture, (n,)."""
        found = np.ones(len(index))
        found[is_task] = self.values[index[is_task]]
        return found


@contextmanager
def scaled_prompts(model: Any, batch: PackedBatch, scale: torch.Tensor) -> Iterator[None]:
    """Scale the embeddings of each example's prompt in a packed row within a context.

    The model looks up its input embeddings once in a forward pass. `scale` has the factor of each
    of the caller's examples, (examples,). Examples that share a prefix must have the same factor,
    because the prefix is computed once (`pack` separates examples with different `sources`).
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
