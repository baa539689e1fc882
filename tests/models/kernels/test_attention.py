"""Whether a model uses the attention that it is given, and whether a trial sees its windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_packing import SMALL, random_model
from transformers.models.mistral import modeling_mistral

from telltune.models.kernels.attention import agrees, asks_attention, packed_attention
from telltune.models.kernels.packing import can_pack


def test_a_model_says_whether_it_uses_the_attention(tiny_base: Any) -> None:
    assert not asks_attention(tiny_base.model)
    with packed_attention(tiny_base.model):
        assert asks_attention(tiny_base.model)


@pytest.mark.parametrize("kind", ["MistralConfig", "Gemma3TextConfig"])
def test_windows_are_short_during_a_trial_only(kind: str) -> None:
    wide, short = (
        random_model(kind, {**SMALL, "head_dim": 8, "sliding_window": n}) for n in (1000, 4)
    )
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        wanted, windowed = wide(ids).logits, short(ids).logits
        assert not torch.allclose(wanted, windowed)
        tried: list[torch.Tensor] = []

        def plain() -> torch.Tensor:
            tried.append(wide(ids).logits)
            return tried[0]

        agrees(wide, packed_attention(wide), lambda: wanted, plain)
        torch.testing.assert_close(tried[0], windowed)
        torch.testing.assert_close(wide(ids).logits, wanted)


def test_attention_that_does_not_tell_of_a_wide_window_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_model("MistralConfig", {**SMALL, "sliding_window": 1000})
    assert can_pack.__wrapped__(model)  # type: ignore[attr-defined]

    def untold(holder: object, name: str, other: object) -> Any:
        return None if name == "sliding_window" else getattr(holder, name, other)

    # The mask still has the window.
    monkeypatch.setattr(modeling_mistral, "getattr", untold, raising=False)
    assert not can_pack.__wrapped__(model)  # type: ignore[attr-defined]
