"""Generation with `transformers`, for models that the packed engine does not support.

A prefix that all prompts share is computed once, if the model can go on from its cache. Each prompt
of a batch goes on from a copy, together with those of its length, because padding would change a
recurrent state. Then the caches are put together, and the batch grows as one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from telltune.inference.packed_engine import MOST_ROWS, shared_length
from telltune.models.kernels.attention import reproduces, tried_once
from telltune.models.kernels.packing import LEAST_SHARED
from telltune.models.threads import shared_cores


@dataclass
class TransformersGenerator:
    """Generator that runs a loaded model on batches of prompts of similar length.

    Attributes:
        model: Causal language model, with or without an adapter.
        pad_id: Id of the padding token, which is masked.
        batch_tokens: Number of prompt tokens in a batch, padding included.
        shares: Whether a prefix of all prompts is computed once, if the model can go on from it.
    """

    model: Any
    pad_id: int
    batch_tokens: int = 8192
    shares: bool = True

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
        """Continue each prompt; see `Generator.generate`."""
        settings: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "eos_token_id": sorted(stop_ids),
            "do_sample": temperature > 0,
        }
        if temperature > 0:
            # transformers would otherwise restrict sampling to its default top_k.
            settings |= {"temperature": temperature, "top_p": top_p, "top_k": 0}
        answers: list[list[int]] = [[] for _ in prompts]
        self.model.eval()
        prefix = self._prefix(prompts)
        for members in _batches([len(prompt) for prompt in prompts], self.batch_tokens):
            batch = [prompts[i] for i in members]
            with shared_cores(), torch.inference_mode():
                cache = None if prefix is None else _continued(self.model, batch, prefix)
                grown = _generate(self.model, batch, self.pad_id, cache, **settings)
            width = max(map(len, batch))
            for row, i in enumerate(members):
                answers[i] = _until_stop(grown[row, width:].tolist(), stop_ids)
            if on_done is not None:
                on_done(len(members))
        return answers

    def _prefix(self, prompts: Sequence[Sequence[int]]) -> Any:
        """Return the cache of the prefix that all prompts share; None if it is not shared."""
        length = shared_length(prompts)
        if not self.shares or length < LEAST_SHARED or not _can_share(self.model):
            return None
        with shared_cores(), torch.inference_mode():
            return _read(self.model, [prompts[0][:length]])


@tried_once
def _can_share(model: Any) -> bool:
    """Return whether a batch has the same logits with the cache of a prefix as without it."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    numbers = np.random.default_rng(0)
    opening = numbers.integers(0, vocabulary, LEAST_SHARED + 2).tolist()
    texts = [opening + numbers.integers(0, vocabulary, n).tolist() for n in (6, 3, 3, 1)]

    def logits(cache: Any = None) -> Tensor:
        asked = {"return_dict_in_generate": True, "output_logits": True}
        found = _generate(model, texts, 0, cache, max_new_tokens=2, eos_token_id=[], **asked)
        return torch.stack(found.logits)

    def shared() -> Tensor:
        return logits(_continued(model, texts, _read(model, [opening])))

    return reproduces(model, shared, logits)


def _read(model: Any, texts: Sequence[Sequence[int]], cache: Any = None) -> Any:
    """Return the cache of texts of one length, which goes on from a given cache."""
    if cache is None:
        from transformers import DynamicCache

        cache = DynamicCache(config=model.config.get_text_config())
    # The one token that is chosen is not read.
    _generate(model, texts, 0, cache, max_new_tokens=1, eos_token_id=[])
    return cache


def _continued(model: Any, prompts: Sequence[Sequence[int]], prefix: Any) -> Any:
    """Return the cache of prompts up to their last token, with padding on the left.

    Args:
        model: Causal language model that `_can_share`.
        prompts: Token ids of each prompt; prompts of one length are neighbors.
        prefix: Cache of the prefix that all prompts share.
    """
    caches = []
    for length, alike in groupby((prompt[:-1] for prompt in prompts), key=len):
        texts = list(alike)
        cache = copy.deepcopy(prefix)
        cache.reorder_cache(torch.zeros(len(texts), dtype=torch.int64, device=model.device))
        caches.append(_read(model, texts, cache) if length > prefix.get_seq_length() else cache)
    longest = max(caches, key=lambda cache: cache.get_seq_length())
    for layer, *parts in zip(longest.layers, *(cache.layers for cache in caches), strict=True):
        for name in ("keys", "values"):
            if isinstance(getattr(layer, name, None), torch.Tensor):
                setattr(layer, name, _stacked([getattr(part, name) for part in parts]))
        for name in ("conv_states", "recurrent_states"):
            for i, state in getattr(layer, name, {}).items():
                if state is not None:
                    states = [getattr(part, name)[i] for part in parts]
                    getattr(layer, name)[i] = torch.cat(states)
    return longest


def _stacked(parts: list[Tensor]) -> Tensor:
    """Put keys or values together, each (rows, heads, tokens, width), with padding on the left."""
    longest = max(part.shape[2] for part in parts)
    return torch.cat([pad(part, (0, 0, longest - part.shape[2], 0)) for part in parts])


def _generate(
    model: Any, prompts: Sequence[Sequence[int]], pad_id: int, cache: Any, **settings: Any
) -> Any:
    """Run `generate` on prompts with padding on the left, from the cache of their start if any."""
    from transformers import GenerationConfig

    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    config = GenerationConfig(pad_token_id=pad_id, **settings)  # type: ignore[no-untyped-call]
    return model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=config,
        **({} if cache is None else {"past_key_values": cache}),
    )


def _batches(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Yield indices of prompts of similar length, in batches of at most `budget` padded tokens."""
    batch: list[int] = []
    # The longest prompts come first, so that a lack of memory shows at once.
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        full = len(batch) == MOST_ROWS
        if batch and (full or (len(batch) + 1) * lengths[batch[0]] > budget):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _until_stop(ids: list[int], stop_ids: set[int]) -> list[int]:
    for position, token in enumerate(ids):
        if token in stop_ids:
            return ids[:position]
    return ids
