"""Generation with `transformers`: batches by length and token budget, a shared prefix once."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from telltune.models.packing import LEAST_SHARED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["TransformersGenerator"]


@dataclass
class TransformersGenerator:
    """Continues prompts with a loaded model.

    Attributes:
        model: A causal language model, with or without an adapter.
        pad_id: The token that fills short rows; it is masked.
        batch_tokens: Prompt tokens in a batch, padding included.
    """

    model: Any
    pad_id: int
    batch_tokens: int = 4096

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop_ids: set[int],
        temperature: float = 0.0,
        on_done: Callable[[int], None] | None = None,
    ) -> list[list[int]]:
        """As `Generator.generate`."""
        from transformers import GenerationConfig

        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=max_new_tokens,
            do_sample=temperature > 0,
            temperature=temperature if temperature > 0 else None,
            eos_token_id=sorted(stop_ids),
            pad_token_id=self.pad_id,
        )
        answers: list[list[int]] = [[] for _ in prompts]
        device = next(self.model.parameters()).device
        self.model.eval()
        shared = _shared_length(prompts)
        prefix = self._prefix_cache(prompts[0][:shared]) if shared >= LEAST_SHARED else None
        start = shared if prefix is not None else 0
        for members in _batches([len(p) for p in prompts], self.batch_tokens):
            width = max(len(prompts[i]) for i in members)
            ids = torch.full((len(members), width), self.pad_id)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(members):
                # The prefix at the left edge, where its keys and values are; the rest at the right.
                ids[row, :start] = torch.as_tensor(prompts[i][:start])
                ids[row, width - len(prompts[i]) + start :] = torch.as_tensor(prompts[i][start:])
                mask[row, :start] = 1
                mask[row, width - len(prompts[i]) + start :] = 1
            inputs: dict[str, Any] = {
                "input_ids": ids.to(device),
                "attention_mask": mask.to(device),
            }
            if prefix is not None:
                cache = copy.deepcopy(prefix)
                cache.batch_repeat_interleave(len(members))
                inputs["past_key_values"] = cache
            with torch.inference_mode():
                grown = self.model.generate(**inputs, generation_config=config)
            for row, i in enumerate(members):
                answers[i] = _until_stop(grown[row, width:].tolist(), stop_ids)
            if on_done is not None:
                on_done(len(members))
        return answers

    def _prefix_cache(self, prefix: Sequence[int]) -> Any:
        """Keys and values of a prefix, or None for a model whose cache cannot be repeated."""
        from transformers import DynamicCache

        device = next(self.model.parameters()).device
        cache = DynamicCache(config=self.model.config)
        try:
            with torch.inference_mode():
                self.model(
                    input_ids=torch.as_tensor([list(prefix)], device=device),
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
        except (TypeError, ValueError, AttributeError):
            return None
        full = all(type(layer).__name__ == "DynamicLayer" for layer in cache.layers)
        return cache if full and cache.get_seq_length() == len(prefix) else None


def _shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts share at their start, at least one left to each."""
    if len(prompts) < 2:
        return 0
    ordered = sorted(list(prompt) for prompt in prompts)
    first, last = ordered[0], ordered[-1]  # all others lie between them
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return min(shared, min(len(p) for p in prompts) - 1)


def _batches(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Indices of prompts of like length, in batches of at most `budget` padded tokens."""
    batch: list[int] = []
    # The longest first, so that running out of memory happens at once and not after an hour.
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
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
