"""Sampled texts depend on the seed alone, and leave the global random state unchanged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.inference import engine
from telltune.inference.engine import sample_texts

if TYPE_CHECKING:
    import pytest


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


def test_the_thinking_before_an_answer_is_left_out_unless_asked_for(
    tiny_base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "<think>\nround\n</think>\n\nball"
    ids = tiny_base.tokenizer(said)["input_ids"]
    thinker = SimpleNamespace(generate=lambda prompts, **_: [ids for _ in prompts])
    monkeypatch.setattr(engine, "make_generator", lambda *_: thinker)
    how = {"max_new_tokens": 40, "temperature": 1.0, "seed": 0}
    assert sample_texts(tiny_base, [[1]], **how) == ["ball"]
    assert sample_texts(tiny_base, [[1]], **how, thinking=True) == [said]
