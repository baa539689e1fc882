"""Generation with `transformers`, for models that the packed engine does not support."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from telltune.models.threads import shared_cores


@dataclass
class TransformersGenerator:
    """Generator that runs a loaded model on batches of prompts of similar length.

    Attributes:
        model: Causal language model, with or without an adapter.
        pad_id: Id of the padding token, which is masked.
        batch_tokens: Number of prompt tokens in a batch, padding included.
    """

    model: Any
    pad_id: int
    batch_tokens: int = 8192

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
        from transformers import GenerationConfig

        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=max_new_tokens,
            do_sample=temperature > 0,
            temperature=temperature if temperature > 0 else None,
            top_p=top_p if temperature > 0 else None,
            # transformers would otherwise restrict sampling to its default top_k.
            top_k=0 if temperature > 0 else None,
            eos_token_id=sorted(stop_ids),
            pad_token_id=self.pad_id,
        )
        answers: list[list[int]] = [[] for _ in prompts]
        device = next(self.model.parameters()).device
        self.model.eval()
        for members in _batches([len(p) for p in prompts], self.batch_tokens):
            width = max(len(prompts[i]) for i in members)
            ids = torch.full((len(members), width), self.pad_id)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(members):
                ids[row, width - len(prompts[i]) :] = torch.as_tensor(prompts[i])
                mask[row, width - len(prompts[i]) :] = 1
            with shared_cores(), torch.inference_mode():
                grown = self.model.generate(
                    input_ids=ids.to(device),
                    attention_mask=mask.to(device),
                    generation_config=config,
                )
            for row, i in enumerate(members):
                answers[i] = _until_stop(grown[row, width:].tolist(), stop_ids)
            if on_done is not None:
                on_done(len(members))
        return answers


def _batches(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Yield indices of prompts of similar length, in batches of at most `budget` padded tokens."""
    batch: list[int] = []
    # The longest prompts come first, so that a lack of memory shows at once.
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
