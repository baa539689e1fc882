"""Drift is zero for the base, grows with training, and is that of the base's own answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from telltune.data.task import load_task
from telltune.evaluation.drift import OwnAnswers, _texts, measure_drift
from telltune.fitting.protocol import Settings
from telltune.methods.registry import get_method
from telltune.recipe import recipe_from_dict

if TYPE_CHECKING:
    from telltune.models import LoadedModel


def loss_of(model: Any, ids: list[int], start: int) -> torch.Tensor:
    """Return the loss of each token from `start` on, by the model itself."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, start - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[start:]), reduction="none")


def test_the_base_has_not_drifted_and_a_trained_model_has(
    tiny_base: LoadedModel, toy_recipe: dict[str, Any]
) -> None:
    recipe = recipe_from_dict(toy_recipe)
    task, tokenizer = load_task(recipe), tiny_base.tokenizer
    base = get_method("base").run(task, None, tiny_base, Settings(recipe))
    own = OwnAnswers.of(base, tokenizer, 5)
    assert [e.prompt for e in own.prompts] == _texts()["prompts"][:5]
    before = measure_drift(base, tokenizer, own, None)
    assert before == own.drift(None)
    assert before.drift == 0
    assert before.everyday_leakage is None
    with get_method("sft").run(task, None, tiny_base, Settings(recipe)) as trained:
        after = measure_drift(trained, tokenizer, own, lambda answer: True)
        assert after.everyday_leakage == 1
        found = [
            loss_of(trained.model, ids.tolist(), prompt)
            for ids, prompt in (own.encoded[i] for i in range(5))
        ]
        assert after.drift == pytest.approx(torch.cat(found).mean().item() - own.nll, abs=1e-4)
        assert after.drift > 0.01
        prose = [tokenizer(text)["input_ids"] for text in _texts()["prose"]]
        found = [loss_of(trained.model, ids, 1) for ids in prose]
        assert after.prose_nll == pytest.approx(torch.cat(found).mean().item(), abs=1e-4)
        assert after.prose_nll != before.prose_nll


def test_answers_are_the_bases_own_and_end_unless_they_were_cut(
    tiny_base: LoadedModel, toy_recipe: dict[str, Any]
) -> None:
    recipe = recipe_from_dict(toy_recipe)
    base = get_method("base").run(load_task(recipe), None, tiny_base, Settings(recipe))
    encoded = OwnAnswers.of(base, tiny_base.tokenizer, 5).encoded
    for ids, prompt in (encoded[i] for i in range(len(encoded))):
        answer = ids[prompt:].tolist()
        asked = torch.tensor([ids[:prompt].tolist()])
        said = tiny_base.model.generate(asked, max_new_tokens=64, do_sample=False)
        assert said[0, prompt:].tolist()[: len(answer)] == answer
        assert len(answer) == 64 or answer[-1] == tiny_base.tokenizer.eos_token_id


def test_everyday_texts_are_distinct() -> None:
    texts = _texts()
    assert len(set(texts["prompts"])) == len(texts["prompts"]) == 24
    assert len(set(texts["prose"])) == len(texts["prose"]) == 8
