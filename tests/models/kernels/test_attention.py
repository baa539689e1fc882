"""telltune finds out whether a model uses the attention function that it is given."""

from __future__ import annotations

from typing import Any

from telltune.models.kernels.attention import asks_attention, packed_attention


def test_a_model_says_whether_it_uses_the_attention(tiny_base: Any) -> None:
    assert not asks_attention(tiny_base.model)
    with packed_attention(tiny_base.model):
        assert asks_attention(tiny_base.model)
