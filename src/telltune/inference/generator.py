"""The protocol of every engine: prompts as token ids in, answers as token ids out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Generator"]


class Generator(Protocol):
    """Something that continues prompts."""

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
            max_new_tokens: Longest answer.
            stop_ids: Tokens that end an answer; they are not part of it.
            temperature: 0 is greedy.
            top_p: Draw among the likeliest tokens that hold this much of the probability.
            on_done: Told how many prompts have been finished since the last call.

        Returns:
            The answers' token ids, in the order of the prompts.
        """
        ...
