"""Loss of a model on given responses, without training."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from telltune.models.kernels.attention import packed_attention
from telltune.models.kernels.cut_loss import cut_loss
from telltune.models.kernels.lora import FusedLora
from telltune.models.kernels.packing import can_pack, pack, token_nll
from telltune.models.threads import adapt_threads, shared_cores

if TYPE_CHECKING:
    from telltune.data.encoding import EncodedSet

__all__ = ["response_nll"]


def response_nll(model: Any, encoded: EncodedSet, *, budget: int = 2048) -> torch.Tensor:
    """Return the summed negative log-likelihood of each response, in nats, (examples,).

    Args:
        model: Causal language model, with or without an adapter.
        encoded: Encoded examples.
        budget: Number of tokens per pass.
    """
    together = can_pack(model)
    rows = [encoded[i] for i in range(len(encoded))]
    sums = torch.zeros(len(rows), dtype=torch.float64)
    model.eval()
    attending = packed_attention(model) if together else nullcontext()
    with shared_cores(), torch.inference_mode(), FusedLora(model):
        cut = cut_loss(model)
        with attending:
            for batch in pack(rows, budget, together=together):
                adapt_threads()
                sums.index_add_(0, batch.rows, token_nll(model, batch, cut).double().cpu())
    return sums
