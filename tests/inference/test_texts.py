"""Sampled texts: the same for a seed, and nobody else's random numbers are spent."""

from __future__ import annotations

from typing import Any

import torch

from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.inference.texts import sample_texts


def test_a_seed_says_the_same_again_and_spends_no_random_numbers(tiny_base: Any) -> None:
    prompts = Encoder(tiny_base.tokenizer).prompts([Example(f"item {n}", "") for n in range(4)])

    def said(seed: int) -> list[str]:
        return sample_texts(tiny_base, prompts, max_new_tokens=8, temperature=1.0, seed=seed)

    before = torch.random.get_rng_state()
    first = said(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert said(1) == first != said(2)
    assert len(first) == 4
    assert all(text == text.strip() for text in first)
