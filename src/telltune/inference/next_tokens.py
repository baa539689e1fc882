"""The next tokens of sequences: guessed from their texts, and chosen from logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["choose", "draft"]

_SORTED = 1024
"""Number of likeliest tokens that are sorted first to sample with top-p."""


def draft(tokens: Sequence[int], most: int) -> list[int]:
    """Guess the next tokens: those after the previous occurrence of the last two tokens.

    Answers repeat parts of their prompts and of themselves. A pass over a few rows costs little
    more than a pass over one, whose time is that of reading the weights (prompt lookup decoding).

    Args:
        tokens: Tokens of the prompt and the answer so far.
        most: Maximum number of guessed tokens.
    """
    last = tuple(tokens[-2:])
    for at in range(len(tokens) - 3, -1, -1):
        if tokens[at] == last[0] and tokens[at + 1] == last[1]:
            return list(tokens[at + 2 : at + 2 + most])
    return []


def choose(
    logits: Tensor,
    temperature: float = 0.0,
    top_p: float = 1.0,
    draws: torch.Generator | None = None,
) -> list[int]:
    """Return the next token of each sequence.

    Args:
        logits: Logits, (sequences, vocabulary).
        temperature: Sampling temperature; 0 means greedy decoding.
        top_p: Sample among the likeliest tokens that together have this probability.
        draws: Random generator on the CPU; None for torch's own.
    """
    tokens: list[int]
    if temperature == 0:
        tokens = logits.argmax(dim=-1).tolist()
        return tokens
    chances = torch.softmax(logits.float() / temperature, -1)
    if top_p < 1:
        chances = _likeliest(chances, top_p)
    # torch.multinomial draws one number per token of the vocabulary, which takes six times as long.
    # With sums in 32 bits the rarest tokens would never be drawn.
    below = chances.cumsum(-1, dtype=torch.float64)
    drawn = torch.rand(len(below), 1, dtype=below.dtype, generator=draws).to(below.device)
    tokens = torch.searchsorted(below, drawn * below[:, -1:], right=True)[:, 0].tolist()
    return tokens


def _likeliest(chances: Tensor, share: float) -> Tensor:
    """Set all probabilities to 0 except those of the likeliest tokens, at least one.

    Sorting a whole vocabulary takes longer than a pass of a small model. Only the likeliest tokens
    are sorted if they have enough probability.
    """
    best, tokens = chances.topk(min(_SORTED, chances.shape[-1]))
    if bool((best.sum(-1) < share).any()):
        best, tokens = chances.sort(-1, descending=True)
    best = best.where(best.cumsum(-1) - best < share, 0.0)
    return torch.zeros_like(chances).scatter_(-1, tokens, best)
