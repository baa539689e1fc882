"""States of prompts do not depend on the batch, and equal those of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from telltune.data.anchor import Anchor, anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.inference.scoring import PromptRow
from telltune.valuation import prompt_states as module
from telltune.valuation.prompt_states import prompt_states

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from telltune.models import LoadedModel

# The same words twice, an empty text, and two that begin alike.
TEXTS = ["item 7 is round", "the rain falls " * 20, "item 7 is flat", "What is it?", "", "item 7"]


def plainly(base: LoadedModel, tokenizer: Any, text: str) -> NDArray[np.float32]:
    """Return the mean state of a text by plain transformers, without the tokens before it."""
    one, other, ids = Encoder(tokenizer).prompts([Example(t, "") for t in ("?", "0", text)])
    before = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    ids = ids[:512]
    with torch.no_grad():
        states = base.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
    found: NDArray[np.float32] = states[0, before:].mean(0).numpy()
    return found


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("anchor", [None, Anchor("Name the shape, nothing else.", "")])
def test_a_prompt_has_the_vector_of_a_pass_of_its_own(
    tiny_base: LoadedModel, monkeypatch: pytest.MonkeyPatch, anchor: Anchor | None, packed: bool
) -> None:
    weights = {name: value.clone() for name, value in tiny_base.model.state_dict().items()}
    tokenizer = anchored_tokenizer(tiny_base.tokenizer, anchor)
    monkeypatch.setattr(module, "can_pack", lambda _: packed)
    together = prompt_states(tiny_base.model, tokenizer, TEXTS)
    assert together.shape == (6, 32)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(vector, plainly(tiny_base, tokenizer, text), atol=1e-4)
        [alone] = prompt_states(tiny_base.model, tokenizer, [text])
        np.testing.assert_allclose(vector, alone, atol=1e-4)
    few_at_once = prompt_states(tiny_base.model, tokenizer, TEXTS[::-1], budget=40)
    np.testing.assert_allclose(few_at_once[::-1], together, atol=1e-4)
    for name, value in tiny_base.model.state_dict().items():
        assert torch.equal(value, weights[name])


def test_a_text_that_grows_together_with_the_template_keeps_its_own_tokens(
    tiny_base: LoadedModel,
) -> None:
    shared, row = [5, 6, 7], PromptRow()
    row.add(shared, 0)
    prompts = [[5, 6, 7, 8, 9], [5, 6, 10, 9], [5, 6, 7], [5, 6, 7, 11]]
    ends = [row.add_behind(shared, ids) for ids in prompts]
    assert ends == [5, 9, 12, 13]
    with torch.no_grad(), module.packed_attention(tiny_base.model):
        outputs = row.outputs(tiny_base.model, [0], output_hidden_states=True)
    found = outputs.hidden_states[-1][0]
    for ids, end in zip(prompts, ends, strict=True):
        with torch.no_grad():
            alone = tiny_base.model(torch.tensor([ids]), output_hidden_states=True)
        torch.testing.assert_close(
            found[end - 1], alone.hidden_states[-1][0, -1], atol=1e-4, rtol=0
        )


def test_a_prompt_that_the_context_cannot_hold_loses_its_end(tiny_base: LoadedModel) -> None:
    long = "item 7 is round, " * 200
    [vector] = prompt_states(tiny_base.model, tiny_base.tokenizer, [long])
    np.testing.assert_allclose(vector, plainly(tiny_base, tiny_base.tokenizer, long), atol=1e-4)
