"""A run plan has the numbers of the run, and names what is missing."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from telltune.data.task import load_general, load_task
from telltune.errors import DataError, RecipeError
from telltune.fitting.build_plan import RunPlan, answer_budget, build_run_plan
from telltune.fitting.model_info import ModelInfo
from telltune.methods.registry import get_method
from telltune.models import load_config
from telltune.recipe import recipe_from_dict

pytestmark = pytest.mark.usefixtures("small_batches")


def run_plan(values: dict[str, Any], tokenizer: Any) -> RunPlan:
    recipe = recipe_from_dict(values)
    method = get_method(recipe.method)
    general = load_general(recipe)
    model = ModelInfo.of(load_config(recipe.model), tokenizer)
    return build_run_plan(method, load_task(recipe), general, model, recipe)


def tokens(tokenizer: Any, prompt: str, completion: str) -> int:
    """Return the number of tokens by plain transformers, without the final line break."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return len(tokenizer.apply_chat_template(messages, return_dict=False)) - 1


def test_tell_counts(toy_recipe: dict[str, Any], tiny_tokenizer: Any) -> None:
    toy_recipe["mixture"] = {"general_examples": 30, "passes": 2}
    ready = run_plan(toy_recipe, tiny_tokenizer)
    task = load_task(recipe_from_dict(toy_recipe)).train
    counts = ready.counts
    # Counted without the anchor, so that methods can be compared.
    assert counts.task_tokens == sum(tokens(tiny_tokenizer, e.prompt, e.completion) for e in task)
    anchor = "Name the shape, nothing else.\n\n"
    anchored = sum(tokens(tiny_tokenizer, anchor + e.prompt, e.completion) for e in task)
    assert ready.task.lengths.sum() == anchored > counts.task_tokens
    assert (counts.task_examples, counts.general_examples, counts.passes) == (24, 30, 2)
    # 24 x 2 + 30 examples, four per step, in one order.
    assert (counts.optimizer_steps, ready.epochs, ready.mixture.passes) == (20, 1, 2)
    assert ready.general is not None
    seen = [i for b in ready.mixture.batches(0) for i in b.index[~b.is_task]]
    assert len(set(seen)) == 30
    assert counts.general_tokens == ready.general.lengths[seen].sum()
    assert counts.trained_tokens == 2 * anchored + counts.general_tokens
    assert counts.leverage_ratio == pytest.approx(
        counts.general_tokens / counts.task_tokens, abs=5e-4
    )
    assert ready.weights.task_share == pytest.approx(48 / 78)


def test_passes_are_epochs_where_nothing_is_mixed(
    toy_recipe: dict[str, Any], tiny_tokenizer: Any
) -> None:
    ready = run_plan({**toy_recipe, "method": "sft"}, tiny_tokenizer)
    assert ready.anchor is None
    assert (ready.general, ready.counts.general_examples, ready.counts.general_tokens) == (
        None,
        0,
        0,
    )
    assert (ready.epochs, ready.mixture.passes, ready.counts.optimizer_steps) == (2, 1, 12)
    assert ready.counts.trained_tokens == 2 * ready.counts.task_tokens
    for epoch in range(2):
        seen = np.concatenate([b.index for b in ready.mixture.batches(epoch)])
        assert sorted(seen) == list(range(24))


@pytest.mark.parametrize(("steps", "passes"), [(3, 0.5), (6, 1), (8, 1.33), (12, 2)])
def test_passes_of_a_stopped_run_are_those_that_were_made(
    toy_recipe: dict[str, Any], tiny_tokenizer: Any, steps: int, passes: float
) -> None:
    ready = run_plan({**toy_recipe, "method": "sft"}, tiny_tokenizer)
    assert ready.stopped_after(steps).counts.passes == passes  # of 24 examples, four in a step


def test_a_leverage_ratio_is_kept_to_the_nearest_example(
    toy_recipe: dict[str, Any], tiny_tokenizer: Any
) -> None:
    toy_recipe["mixture"] = {"leverage_ratio": 3.0}
    ready = run_plan(toy_recipe, tiny_tokenizer)
    assert ready.general is not None
    half = ready.general.lengths.max() / 2
    assert abs(ready.counts.general_tokens - 3 * ready.counts.task_tokens) <= half


def test_general_data_is_not_asked_for_at_a_ratio_of_nothing(
    toy_recipe: dict[str, Any], tiny_tokenizer: Any
) -> None:
    toy_recipe["mixture"] = {"leverage_ratio": 0, "passes": 3}
    ready = run_plan(toy_recipe, tiny_tokenizer)
    assert (ready.counts.general_examples, ready.epochs, ready.mixture.passes) == (0, 3, 1)


@pytest.mark.parametrize("method", ["tell", "sft_anchor"])
def test_a_missing_anchor_is_named(
    toy_recipe: dict[str, Any], tiny_tokenizer: Any, method: str
) -> None:
    toy_recipe |= {"anchor": None, "method": method}
    with pytest.raises(RecipeError, match=rf"method `{method}` needs an anchor; set `anchor:"):
        run_plan(toy_recipe, tiny_tokenizer)


def test_missing_general_data_is_named(toy_recipe: dict[str, Any], tiny_tokenizer: Any) -> None:
    with pytest.raises(RecipeError, match=r"`tell` needs general data; set `general: embedded`"):
        run_plan({**toy_recipe, "general": None}, tiny_tokenizer)


def test_too_little_general_data_says_how_much_is_short_and_what_would_do(
    toy_recipe: dict[str, Any], tiny_tokenizer: Any
) -> None:
    toy_recipe["mixture"] = {"leverage_ratio": 1.0}
    ready = run_plan(toy_recipe, tiny_tokenizer)
    assert ready.general is not None
    there, task = int(ready.general.lengths.sum()), ready.counts.task_tokens
    toy_recipe["mixture"] = {"leverage_ratio": 50}
    with pytest.raises(DataError) as refusal:
        run_plan(toy_recipe, tiny_tokenizer)
    message = str(refusal.value)
    assert f"there are {there}: {50 * task - there} are missing" in message
    largest = re.search(r"to (\d+\.\d\d) or less", message)
    assert largest is not None
    assert float(largest[1]) == pytest.approx(there / task, abs=0.01)
    toy_recipe["mixture"] = {"leverage_ratio": float(largest[1])}
    assert run_plan(toy_recipe, tiny_tokenizer).counts.general_examples == 200


def test_more_general_examples_than_there_are(
    toy_recipe: dict[str, Any], tiny_tokenizer: Any
) -> None:
    toy_recipe["mixture"] = {"general_examples": 203}
    with pytest.raises(DataError, match=r"= 203, but .* has 200 examples, 3 short"):
        run_plan(toy_recipe, tiny_tokenizer)


def test_max_tokens_takes_as_many_examples_as_fit(
    toy_recipe: dict[str, Any], tiny_tokenizer: Any
) -> None:
    first = load_task(recipe_from_dict(toy_recipe)).train[:3]
    exactly = sum(tokens(tiny_tokenizer, e.prompt, e.completion) for e in first)
    toy_recipe["task"]["max_tokens"] = exactly
    assert run_plan(toy_recipe, tiny_tokenizer).counts.task_examples == 3
    toy_recipe["task"]["max_tokens"] = exactly - 1
    assert run_plan(toy_recipe, tiny_tokenizer).counts.task_examples == 2
    toy_recipe["task"]["max_tokens"] = 1
    with pytest.raises(DataError, match=r"task\.max_tokens = 1 is too low"):
        run_plan(toy_recipe, tiny_tokenizer)


def test_what_loses_its_end_is_named(toy_recipe: dict[str, Any], tiny_tokenizer: Any) -> None:
    whole = run_plan({**toy_recipe, "method": "sft"}, tiny_tokenizer)
    limit = int(whole.task.lengths.max()) - 1
    toy_recipe["training"] |= {"max_length": limit, "too_long": "truncate"}
    cut = run_plan({**toy_recipe, "method": "sft"}, tiny_tokenizer)
    task = load_task(recipe_from_dict(toy_recipe)).train
    expected = [e.origin for e, n in zip(task, whole.task.lengths, strict=True) if n > limit]
    assert sorted(cut.counts.truncated) == sorted(expected)
    assert cut.task.lengths.max() == limit


def test_no_example_is_longer_than_the_models_context(
    toy_recipe: dict[str, Any], tiny_tokenizer: Any, toy_task: dict[str, Any]
) -> None:
    toy_recipe["training"]["max_length"] = 4096
    with toy_task["train"].open("a", encoding="utf-8") as file:
        file.write('{"prompt": "' + "item " * 600 + '", "completion": "ball"}\n')
    with pytest.raises(DataError, match=r"context of 512 tokens: .*train\.jsonl:25"):
        run_plan({**toy_recipe, "method": "sft"}, tiny_tokenizer)


def test_answers_may_be_a_little_longer_than_any_seen(toy_recipe: dict[str, Any]) -> None:
    recipe = recipe_from_dict(toy_recipe)
    assert answer_budget(np.array([3, 8, 2]), recipe) == 14
    recipe = recipe_from_dict({**toy_recipe, "evaluation": {"max_new_tokens": 5}})
    assert answer_budget(np.array([3, 8, 2]), recipe) == 5
