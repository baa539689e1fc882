"""Forgetting is the loss on untrained general examples, and leakage of the task's format."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from telltune.data.mixture import Mixture
from telltune.data.task import load_general, load_task
from telltune.errors import DataError
from telltune.evaluation.forgetting import held_out_general, measure_forgetting, task_format
from telltune.fitting.protocol import Settings
from telltune.methods.registry import get_method
from telltune.recipe import recipe_from_dict

if TYPE_CHECKING:
    from telltune.data.general import GeneralData
    from telltune.models import LoadedModel


@pytest.fixture
def general(toy_recipe: dict[str, Any]) -> GeneralData:
    found = load_general(recipe_from_dict(toy_recipe))
    assert found is not None
    return found


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_what_is_held_out_is_never_trained_on(general: GeneralData, seed: int) -> None:
    used, count = 150, 50
    examples = list(general)
    mixture = Mixture(4, used, len(examples), passes=2, order="shuffled", seed=seed, batch_size=4)
    slots = mixture.slots(0, 0, len(mixture))
    trained = {examples[i].prompt for i in slots.index[~slots.is_task]}
    held_out = {example.prompt for example in held_out_general(general, count, used, seed)}
    assert len(held_out) == count
    assert not held_out & trained
    # Fewer examples are a subset of more.
    assert {e.prompt for e in held_out_general(general, 10, used, seed)} < held_out


def test_too_few_to_hold_out_is_an_error(general: GeneralData) -> None:
    with pytest.raises(DataError, match="too few to train on 180 and hold out 21"):
        held_out_general(general, 21, 180, seed=0)


def test_an_answer_of_a_closed_set_is_known() -> None:
    looks = task_format(["Billing", "Support", "Sales"] * 4)
    assert looks is not None
    assert looks("billing.")
    assert looks(" Sales\n")
    assert not looks("Billing is handled by the team upstairs.")
    assert not looks("")


def test_json_is_known_by_its_keys() -> None:
    looks = task_format([f'{{"name": "n{i}", "year": {i}}}' for i in range(30)])
    assert looks is not None
    assert looks('{"name": "x", "year": 2}')
    assert looks('[{"name": "x"}]')
    assert not looks('{"capital": "Paris"}')
    assert not looks("The capital of France is Paris.")
    assert not looks("17")


def test_free_text_has_no_format_that_could_be_told() -> None:
    assert task_format([f"Sentence number {i}." for i in range(30)]) is None


def test_a_trained_model_is_asked_without_its_anchor(
    tiny_base: LoadedModel, toy_recipe: dict[str, Any], general: GeneralData
) -> None:
    toy_recipe["mixture"] = {"passes": 8}
    recipe = recipe_from_dict(toy_recipe)
    task = load_task(recipe)
    held_out = held_out_general(general, 6, 0, seed=0)
    looks = task_format([example.completion for example in task.train])

    def asked(predictor: Any) -> Any:
        return measure_forgetting(predictor, tiny_base.tokenizer, held_out, 4, looks)

    base = asked(get_method("base").run(task, None, tiny_base, Settings(recipe)))
    anchored = asked(get_method("base_anchor").run(task, None, tiny_base, Settings(recipe)))
    assert anchored == base
    assert base.leakage == 0
    trained = get_method("sft_anchor").run(task, None, tiny_base, Settings(recipe))
    after = asked(trained)
    assert after.general_nll != base.general_nll
    # The perplexity is over the examples' own tokens.
    nll, tokens = trained.beside_its_task(tiny_base.tokenizer).nll(held_out)
    assert math.isclose(after.general_nll, float(nll.sum() / tokens.sum()), rel_tol=1e-6)
    trained.release()
    assert measure_forgetting(trained, tiny_base.tokenizer, held_out, 0, looks).leakage is None
