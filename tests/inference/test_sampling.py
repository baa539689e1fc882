"""Sampling: temperature and top-p draw from what the model says, and a seed repeats the draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from telltune.inference.packed_engine import PackedGenerator, _choose
from telltune.inference.transformers_engine import TransformersGenerator

if TYPE_CHECKING:
    from telltune.inference.generator import Generator
    from telltune.models import BaseModel


def test_draws_follow_the_probabilities() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(20_000, 1)
    drawn = torch.tensor(_choose(logits, 1.0))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.015, rtol=0)


def test_top_p_keeps_the_likeliest_that_hold_so_much_and_one_at_least() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.05, 0.5, 0.15, 0.3]).log().repeat(2000, 1)
    assert set(_choose(logits, 1.0, 0.7)) == {1, 3}
    assert set(_choose(logits, 1.0, 0.9)) == {1, 2, 3}
    assert set(_choose(logits, 1.0, 0.01)) == {1}
    assert set(_choose(logits)) == {1}


@pytest.mark.parametrize("engine", ["packed", "transformers"])
def test_a_seed_repeats_what_is_drawn(tiny_base: BaseModel, engine: str) -> None:
    model, pad = tiny_base.model, int(tiny_base.tokenizer.pad_token_id or 0)
    made: Generator = (
        PackedGenerator(model) if engine == "packed" else TransformersGenerator(model, pad)
    )
    prompts = [[5, 6, 7], [8, 9, 10, 11], [12, 13]]

    def drawn(seed: int, **how: Any) -> list[list[int]]:
        torch.manual_seed(seed)
        return made.generate(prompts, max_new_tokens=12, stop_ids={2}, **how)

    sampled = {"temperature": 1.5, "top_p": 0.95}
    assert drawn(1, **sampled) == drawn(1, **sampled)
    assert drawn(1, **sampled) != drawn(2, **sampled)
    assert drawn(1) == drawn(2)
    # Of hardly any probability only the likeliest is left.
    assert drawn(1, temperature=1.5, top_p=1e-6) == drawn(1)
