"""Protocol of the inference engines: they take prompts and return answers as token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Generator"]


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
