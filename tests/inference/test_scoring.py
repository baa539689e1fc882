"""The loss on known responses equals that of full logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.inference.scoring import response_nll

EXAMPLES = [Example(f"item {i} is {'very ' * i}round", "ball " * (i + 1)) for i in range(6)]


@pytest.mark.parametrize("budget", [1, 100, 4096])
def test_response_nll_is_that_of_full_logits(tiny_base: Any, budget: int) -> None:
    encoded = Encoder(tiny_base.tokenizer).encode(EXAMPLES)
    found = response_nll(tiny_base.model, encoded, budget=budget)
    assert found.shape == (len(EXAMPLES),)
    for i in range(len(EXAMPLES)):
        ids, prompt_length = encoded[i]
        tokens = torch.tensor(ids, dtype=torch.int64)
        with torch.no_grad():
            likelihood = tiny_base.model(tokens[None]).logits[0].log_softmax(-1)
        wanted = -sum(
            float(likelihood[place - 1, tokens[place]]) for place in range(prompt_length, len(ids))
        )
        assert float(found[i]) == pytest.approx(wanted, rel=1e-5)


def test_scoring_leaves_the_model_as_it_was(tiny_base: Any) -> None:
    before = tiny_base.model.config._attn_implementation
    response_nll(tiny_base.model, Encoder(tiny_base.tokenizer).encode(EXAMPLES))
    assert tiny_base.model.config._attn_implementation == before
    assert all(p.grad is None for p in tiny_base.model.parameters())
