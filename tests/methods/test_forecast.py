"""What a run will cost, said before it is started."""

from __future__ import annotations

from typing import Any

import pytest

from telltune.data.task import load_general, load_task
from telltune.methods.forecast import computed_tokens, estimated_memory_gib, estimated_seconds
from telltune.methods.preparation import prepare
from telltune.methods.registry import get_method
from telltune.models import load_config
from telltune.models.packing import pack
from telltune.recipe import recipe_from_dict
from telltune.training.trainer import StepSampler


def test_computed_tokens_are_those_that_training_packs(
    toy_recipe: dict[str, Any], tiny_tokenizer: Any
) -> None:
    recipe = recipe_from_dict(toy_recipe | {"mixture": {"general_examples": 12, "passes": 1}})
    method = get_method("tell")
    config = load_config(recipe.model)
    ready = prepare(method, load_task(recipe), load_general(recipe), tiny_tokenizer, config, recipe)
    assert ready.general is not None
    expected = 0
    for step in StepSampler(ready.mixture, ready.epochs):  # nine steps: all are looked at
        rows = [(ready.task if is_task else ready.general)[index] for is_task, index in step]
        batches = pack(rows, 256, sources=[is_task for is_task, _ in step])
        expected += sum(batch.input_ids.numel() for batch in batches)
    assert computed_tokens(ready, 256) == expected < ready.counts.trained_tokens


def test_time_grows_with_tokens_and_memory_with_rows(toy_recipe: dict[str, Any]) -> None:
    config = load_config(recipe_from_dict(toy_recipe).model)
    short, long = (estimated_seconds(config, n, bf16=False, dropout=False) for n in (10**7, 10**9))
    assert long > 5 * short
    small, large = (estimated_memory_gib(config, n, 100, bf16=False) for n in (1024, 1024 * 1024))
    assert large > small
    assert estimated_memory_gib(config, 64, 4096, bf16=False) == pytest.approx(
        estimated_memory_gib(config, 4096, 64, bf16=False)
    )
