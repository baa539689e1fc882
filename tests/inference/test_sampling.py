"""Sampling follows temperature and top-p, and a seed repeats it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from telltune.inference.next_tokens import choose
from telltune.inference.packed_engine import PackedGenerator
from telltune.inference.transformers_engine import TransformersGenerator

if TYPE_CHECKING:
    from telltune.inference.engine import Generator
    from telltune.models import LoadedModel


def test_draws_follow_the_probabilities() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(20_000, 1)
    drawn = torch.tensor(choose(logits, 1.0))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.015, rtol=0)


def test_top_p_keeps_the_likeliest_that_hold_so_much_and_one_at_least() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.05, 0.5, 0.15, 0.3]).log().repeat(2000, 1)
    assert set(choose(logits, 1.0, 0.7)) == {1, 3}
    assert set(choose(logits, 1.0, 0.9)) == {1, 2, 3}
    assert set(choose(logits, 1.0, 0.01)) == {1}
    assert set(choose(logits)) == {1}


@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_of_a_flat_vocabulary_more_are_kept_than_are_sorted_at_first(share: float) -> None:
    torch.manual_seed(0)
    chances = torch.arange(3000, 0, -1, dtype=torch.float64)
    chances /= chances.sum()
    kept = int((chances.cumsum(0) < share).sum()) + 1
    drawn = choose(chances.log().float().repeat(4000, 1), 1.0, share)
    assert 0.97 * kept < max(drawn) < kept


def test_rare_tokens_behind_many_others_are_drawn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.cat([torch.zeros(1), torch.full((50_000,), 2e-8).log()])[None]
    # The first token has 1 / 1.001, and each other equally little; a 32-bit sum loses them.
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.full((1, 1), 0.9995, dtype=float))
    [token] = choose(logits, 1.0)
    assert token == pytest.approx((0.9995 * 1.001 - 1) / 2e-8, rel=0.01)


@pytest.mark.parametrize("engine", ["packed", "transformers"])
def test_a_seed_repeats_what_is_drawn(tiny_base: LoadedModel, engine: str) -> None:
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
    # With a very small top-p only the likeliest is left.
    assert drawn(1, temperature=1.5, top_p=1e-6) == drawn(1)
