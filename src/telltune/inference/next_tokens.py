"""Rows of prompts and answers, and their next tokens: guessed from texts, chosen from logits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_SORTED = 1024
"""Number of likeliest tokens that are sorted first to sample with top-p."""


@dataclass(eq=False)
class Row:
    """A prompt, how to continue it, and its answer so far.

    Attributes:
        prompt: Token ids of the prompt.
        max_new_tokens: Maximum length of the answer in tokens, at least 1.
        stop_ids: Ids of tokens that end the answer; they are not part of it.
        temperature: Sampling temperature; 0 means greedy decoding.
        top_p: Sample among the likeliest tokens that together have this probability.
        draws: Random generator of its own; None for torch's.
        answer: Token ids of the answer so far.
        end: Reason why the answer has ended; None before.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    stop_ids: set[int]
    temperature: float = 0.0
    top_p: float = 1.0
    draws: torch.Generator | None = None
    answer: list[int] = field(default_factory=list, init=False)
    end: Literal["stop", "length"] | None = field(default=None, init=False)

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens to the answer, up to its end."""
        for token in tokens:
            if token in self.stop_ids:
                self.end = "stop"
                return
            self.answer.append(token)
            if len(self.answer) == self.max_new_tokens:
                self.end = "length"
                return


def draft(tokens: Sequence[int], most: int) -> list[int]:
    """Guess up to `most` next tokens: those after the previous occurrence of the last two tokens.

    Answers repeat parts of their prompts and of themselves. A pass over a few rows costs little
    more than a pass over one, whose time is that of reading the weights (prompt lookup decoding).
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


def penalized(rows: list[Row], logits: Tensor, penalty: float) -> Tensor:
    """Make tokens of a row's prompt and answer less likely (CTRL, arXiv 1909.05858, section 4.1).

    Args:
        rows: Rows.
        logits: Logits of the next token of each row, (rows, vocabulary).
        penalty: Divisor of positive logits and factor of negative ones; 1 changes nothing.
    """
    if penalty == 1:
        return logits
    logits = logits.to(torch.float32, copy=True)
    for own, row in zip(logits, rows, strict=True):
        seen = torch.tensor([*row.prompt, *row.answer], device=own.device)
        own[seen] = torch.where(own[seen] < 0, own[seen] * penalty, own[seen] / penalty)
    return logits


def chosen(rows: list[Row], logits: Tensor) -> list[int]:
    """Return the next token of each row; rows with the same settings are sampled together."""
    groups: dict[tuple[float, float, torch.Generator | None], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault((row.temperature, row.top_p, row.draws), []).append(i)
    tokens = [0] * len(rows)
    for how, places in groups.items():
        own = logits if len(groups) == 1 else logits[places]
        for i, token in zip(places, choose(own, *how), strict=True):
            tokens[i] = token
    return tokens
