"""Sample answers to prompts as texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from telltune.data.encoding import Encoder
from telltune.inference.engine import make_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from telltune.models import LoadedModel

__all__ = ["sample_texts"]


def sample_texts(
    base: LoadedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    top_p: float = 1.0,
    thinking: bool = False,
    on_done: Callable[[int], None] | None = None,
) -> list[str]:
    """Sample an answer to each prompt, without white space around it.

    The same seed gives the same answers. The global random state is preserved.

    Args:
        base: Base model that answers, without an adapter.
        prompts: Token ids of each prompt, up to the start of the answer.
        max_new_tokens: Maximum length of an answer in tokens.
        temperature: Sampling temperature.
        seed: Seed of the sampling.
        top_p: Sample among the likeliest tokens that together have this probability.
        thinking: Keep the thinking before an answer in the text.
        on_done: Callback that receives the number of answers finished since its last call.
    """
    tokenizer, encoder = base.tokenizer, Encoder(base.tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        answers = make_generator(base.model, int(tokenizer.pad_token_id or 0)).generate(
            prompts,
            max_new_tokens=max_new_tokens,
            stop_ids=encoder.stop_ids,
            temperature=temperature,
            top_p=top_p,
            on_done=on_done,
        )
    if thinking:
        return [str(tokenizer.decode(a, skip_special_tokens=True)).strip() for a in answers]
    return [encoder.answer(text).strip() for text in encoder.texts(answers)]
