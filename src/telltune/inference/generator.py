"""Protocol of the inference engines: they take prompts and return answers as token ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

__all__ = ["Generator", "Row"]


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


class Generator(Protocol):
    """Engine that continues prompts."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop_ids: set[int],
        temperature: float = 0.0,
        top_p: float = 1.0,
        on_done: Callable[[int], None] | None = None,
    ) -> list[list[int]]:
        """Continue each prompt.

        Args:
            prompts: Token ids of each prompt.
            max_new_tokens: Maximum length of an answer in tokens.
            stop_ids: Ids of tokens that end an answer; they are not part of it.
            temperature: Sampling temperature; 0 means greedy decoding.
            top_p: Sample among the likeliest tokens that together have this probability.
            on_done: Callback that receives the number of prompts finished since its last call.

        Returns:
            Token ids of the answers, in the order of the prompts.
        """
        ...
