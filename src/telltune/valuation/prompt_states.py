"""Prompt embeddings: hidden states of a frozen language model."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.inference.packed_engine import shared_length
from telltune.inference.scoring import PromptRow
from telltune.models import context_length
from telltune.models.kernels.attention import packed_attention
from telltune.models.kernels.packing import can_pack
from telltune.models.threads import adapt_threads, shared_cores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

_ANY_TWO = ("a", "Z")
"""Two texts with different starts; their prompts share only the template and the anchor."""


def prompt_states(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, budget: int = 2048
) -> NDArray[np.float32]:
    """Return the last layer's states, averaged over the tokens of each prompt, (texts, width).

    The prefix that all prompts share is excluded from the mean. It is computed once per row, and
    each prompt attends only to the prefix and to itself. A vector thus does not depend on the other
    texts. See docs/guides/baselines.md for results of other layers and of the last token's states.

    Args:
        model: A causal language model; its weights do not change.
        tokenizer: Tokenizer whose chat template, which may contain an anchor, makes each text a
            user turn.
        texts: Texts to embed; a prompt longer than the context is cut at its end.
        budget: Number of tokens computed at once, not counting the shared prefix.
    """
    encoder = Encoder(tokenizer)
    two, prompts = (encoder.prompts([Example(t, "") for t in of]) for of in (_ANY_TWO, texts))
    before = shared_length(two)
    limit = context_length(model.config)
    prompts = [ids[:limit] for ids in prompts]
    found = np.zeros((len(texts), model.config.get_text_config().hidden_size), np.float32)
    model.eval()
    together = can_pack(model)
    shared = two[0][:before] if together else []
    attending = packed_attention(model) if together else nullcontext()
    with shared_cores(), torch.inference_mode(), attending:
        for members in _rows([len(ids) - before for ids in prompts], budget if together else 0):
            adapt_threads()
            row = PromptRow()
            if shared:
                row.add(shared, 0)
            ends = [row.add_behind(shared, prompts[i]) for i in members]
            states = row.outputs(model, [0], output_hidden_states=True).hidden_states[-1][0]
            for i, end in zip(members, ends, strict=True):
                own = max(len(prompts[i]) - before, 1)
                found[i] = states[end - own : end].float().mean(0).cpu().numpy()
    return found


def _rows(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield prompt indices in rows of at most `budget` tokens, or of one longer prompt."""
    row: list[int] = []
    size = 0
    for i, length in enumerate(lengths):
        if row and size + length > budget:
            yield row
            row, size = [], 0
        row.append(i)
        size += length
    if row:
        yield row
