"""Few-shot: the task's own examples stand before every question, as many as there is room for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from telltune.data.examples import Example, Message
from telltune.data.task import load_task
from telltune.errors import DataError
from telltune.methods.protocol import Settings
from telltune.methods.registry import get_method
from telltune.recipe import recipe_from_dict

if TYPE_CHECKING:
    from telltune.methods.protocol import Predictor
    from telltune.models import BaseModel


def few_shot(base: BaseModel, recipe: dict[str, Any], **changes: Any) -> Predictor:
    checked = recipe_from_dict(recipe | changes)
    return get_method("few_shot").run(load_task(checked), None, base, Settings(checked))


def asked(predictor: Predictor, example: Example) -> str:
    [ids] = predictor._prompts([example], predictor.shots)
    return str(predictor.tokenizer.decode(ids))


def test_examples_are_turns_behind_the_anchor(
    tiny_base: BaseModel, toy_recipe: dict[str, Any]
) -> None:
    predictor = few_shot(tiny_base, toy_recipe, few_shot={"examples": 2})
    train = load_task(recipe_from_dict(toy_recipe)).train
    text = asked(predictor, Example("item 99 is flat", ""))
    places = [
        text.index(part)
        for part in (
            "Name the shape",
            train[0].prompt,
            train[0].completion,
            train[1].prompt,
            "item 99",
        )
    ]
    assert places == sorted(places)
    assert text.count("Name the shape") == 1
    assert train[2].prompt not in text
    assert predictor.cost.task_examples == 2


def test_a_system_turn_stays_first(tiny_base: BaseModel, toy_recipe: dict[str, Any]) -> None:
    predictor = few_shot(tiny_base, toy_recipe, few_shot={"examples": 1})
    example = Example("item 99 is flat", "", history=(Message("system", "system user"),))
    text = asked(predictor, example)
    assert text.index("system user") < text.index(predictor.shots[0].content)


def test_as_many_as_the_context_holds(tiny_base: BaseModel, toy_recipe: dict[str, Any]) -> None:
    everything = few_shot(tiny_base, toy_recipe)
    context = tiny_base.model.config.max_position_embeddings
    [ids] = everything._prompts([Example("item 99 is flat", "")], everything.shots)
    assert 1 < everything.cost.task_examples < 24
    assert context * 0.8 < len(ids) + everything.max_new_tokens <= context


def test_task_tokens_bound_them(tiny_base: BaseModel, toy_recipe: dict[str, Any]) -> None:
    task = toy_recipe["task"] | {"max_tokens": 150}
    predictor = few_shot(tiny_base, toy_recipe, task=task)
    assert 0 < predictor.cost.task_tokens <= 150


def test_a_long_question_is_shown_fewer(tiny_base: BaseModel, toy_recipe: dict[str, Any]) -> None:
    predictor = few_shot(tiny_base, toy_recipe)
    context = tiny_base.model.config.max_position_embeddings
    questions = [Example("item 7 is round, " * 20, ""), Example("item 99 is flat", "")]
    long, short = predictor._prompts(questions, predictor.shots)
    assert len(long) + predictor.max_new_tokens <= context
    assert predictor.shots[0].content in predictor.tokenizer.decode(long)
    [alone] = predictor._prompts(questions[1:], predictor.shots)
    assert short == alone
    assert len(predictor.predict(questions)) == 2


def test_no_room_for_one_is_an_error(tiny_base: BaseModel, toy_recipe: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"train\.jsonl:\d+: one example .* does not fit"):
        few_shot(tiny_base, toy_recipe, evaluation={"max_new_tokens": 470})


def test_beside_its_task_it_is_the_plain_model(
    tiny_base: BaseModel, toy_recipe: dict[str, Any]
) -> None:
    predictor = few_shot(tiny_base, toy_recipe)
    plain = predictor.beside_its_task(tiny_base.tokenizer)
    text = asked(plain, Example("item 99 is flat", ""))
    assert predictor.shots[0].content not in text
    assert "Name the shape" not in text
