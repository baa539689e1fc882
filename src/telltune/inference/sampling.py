"""Which token comes next: the likeliest, or one that is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["choose"]

_SORTED = 1024


def choose(logits: Tensor, temperature: float = 0.0, top_p: float = 1.0) -> list[int]:
    """The next token of each sequence.

    Args:
        logits: (sequences, vocabulary).
        temperature: 0 is greedy.
        top_p: Draw among the likeliest tokens that hold this much of the probability.
    """
    tokens: list[int]
    if temperature == 0:
        tokens = logits.argmax(dim=-1).tolist()
        return tokens
    chances = torch.softmax(logits.float() / temperature, -1)
    if top_p < 1:
        chances = _likeliest(chances, top_p)
    # torch.multinomial draws a number for each token of the vocabulary: six times as slow. Summed
    # in 32 bits the rarest of them would never be drawn.
    below = chances.cumsum(-1, dtype=torch.float64)
    drawn = torch.rand(len(below), 1, dtype=below.dtype).to(below.device) * below[:, -1:]
    tokens = torch.searchsorted(below, drawn, right=True)[:, 0].tolist()
    return tokens


def _likeliest(chances: Tensor, share: float) -> Tensor:
    """Nothing but the likeliest tokens that hold this much; one stays, however much it holds alone.

    A whole vocabulary takes longer to sort than a small model to compute, so that only a part is,
    where that holds enough.
    """
    best, tokens = chances.topk(min(_SORTED, chances.shape[-1]))
    if bool((best.sum(-1) < share).any()):
        best, tokens = chances.sort(-1, descending=True)
    best = best.where(best.cumsum(-1) - best < share, 0.0)
    return torch.zeros_like(chances).scatter_(-1, tokens, best)
