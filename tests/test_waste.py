"""Runs do no unnecessary work; the tests count work and measure no time.

They fail if padding, logits of prompts, or tokenizing of cached texts come back. Each count is
taken from the real verbs with the tiny model.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch

import telltune
from telltune import api
from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.models import load_tokenizer
from telltune.recipe import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VOCABULARY = 400


@pytest.fixture
def computed() -> Iterator[Counter[str]]:
    """Yield counts of embedded tokens and computed rows of logits; `trained` are with gradients."""
    counted: Counter[str] = Counter()

    def count(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        phase = "trained" if torch.is_grad_enabled() else "answered"
        if isinstance(module, torch.nn.Embedding):
            counted[f"{phase} tokens"] += args[0].numel()
        elif isinstance(module, torch.nn.Linear) and module.out_features == VOCABULARY:
            counted[f"{phase} logits"] += args[0][..., 0].numel()

    handle = torch.nn.modules.module.register_module_forward_pre_hook(count)
    yield counted
    handle.remove()


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return a list that gets all tokenized texts, starting with an empty cache."""
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "cache"))
    texts: list[str] = []
    tokenize = Encoder._tokenize

    def spy(self: Encoder, given: list[str]) -> list[list[int]]:
        texts.extend(given)
        return tokenize(self, given)

    monkeypatch.setattr(Encoder, "_tokenize", spy)
    return texts


def test_training_pads_nothing_and_computes_no_logits_of_prompts(
    toy_recipe: dict[str, Any], tmp_path: Path, computed: Counter[str]
) -> None:
    recipe = {**toy_recipe, "method": "sft", "mixture": {"passes": 1}}
    # Whether a kind of model can be packed is tried once per process, which computes logits.
    api.fit(recipe, tmp_path / "tried", progress=False)
    computed.clear()
    counts = api.fit(recipe, tmp_path / "fit", progress=False).record["counts"]
    # Fewer tokens than given, since the common start of a step's examples is computed once.
    assert counts["trained_tokens"] / 4 < computed["trained tokens"] < counts["trained_tokens"]
    words = ("ball", "box", "sheet")
    encoder = Encoder(load_tokenizer(ModelSpec(name=toy_recipe["model"])))
    tokens = encoder.encode([Example("", word) for word in words]).response_lengths.sum()
    # 24 examples, equally many of each shape.
    assert computed["trained logits"] == tokens * 8


def test_answering_computes_a_shared_start_once_and_logits_only_where_it_chooses(
    toy_recipe: dict[str, Any], tmp_path: Path, computed: Counter[str]
) -> None:
    api.fit(toy_recipe, tmp_path / "fit", progress=False)
    computed.clear()
    long = " ".join(f"item {n}" for n in range(20))
    prompts = [f"{long} {n}" for n in range(30)]
    encoder = Encoder(load_tokenizer(ModelSpec(name=toy_recipe["model"])))
    given = sum(map(len, encoder.prompts([Example(prompt, "") for prompt in prompts])))
    answers = telltune.predict(tmp_path / "fit", prompts, max_new_tokens=4)
    assert len(answers) == len(prompts)
    assert computed["answered tokens"] < given / 4
    assert computed["answered logits"] < 6 * len(prompts)


def test_data_are_tokenized_once(
    toy_recipe: dict[str, Any], tmp_path: Path, tokenized: list[str]
) -> None:
    api.fit(toy_recipe, tmp_path / "fit", progress=False)
    # Prompt and completion of 24 task and 200 general examples; the task's without the anchor too;
    # of 12 test items, whose answers must fit the budget. 12 dev prompts are answered at the end.
    assert len(tokenized) == 2 * (24 + 24 + 200 + 12) + 12
    tokenized.clear()
    api.plan(toy_recipe, measure=False)
    assert tokenized == []
    api.fit(toy_recipe, tmp_path / "again", progress=False)
    assert len(tokenized) == 12
