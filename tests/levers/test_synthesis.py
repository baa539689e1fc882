"""A teacher behind an API writes what the base model would write."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from telltune.api import plan
from telltune.data.anchor import Anchor
from telltune.data.examples import Example
from telltune.data.task import TaskData
from telltune.errors import ModelError, RecipeError
from telltune.inference.api_client import api_client
from telltune.levers.auxiliary import Auxiliary
from telltune.levers.self_guide import SelfGuide
from telltune.recipe import ApiSpec, SynthesisSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from chat_server import ChatServer

SHAPES = {"round": "ball", "square": "box"}
KNOWN = [Example(f"item {n} is {kind}", SHAPES[kind]) for n in range(3) for kind in SHAPES]
TASK = TaskData("toy", tuple(KNOWN), (), Anchor("Name the shape."), ())
SPEC = SynthesisSpec(by="teacher", examples=20, rounds=2, samples=2)


def writer() -> Callable[[str], str]:
    """Return the rule of a teacher that writes an input for a label, and answers inputs rightly."""
    number = itertools.count()
    kinds = {shape: kind for kind, shape in SHAPES.items()}

    def say(text: str) -> str:
        _, asks, label = text.partition("whose answer is: ")
        return f"thing {next(number)} is {kinds[label]}" if asks else SHAPES[text.split()[-1]]

    return say


def teacher(server: ChatServer, **settings: Any) -> ApiSpec:
    return ApiSpec(url=server.url, model="large", retries=0, **settings)


def test_a_teacher_makes_the_examples_and_they_are_counted(
    server: ChatServer, tiny_base: Any
) -> None:
    server.rule = writer()
    lever = SelfGuide(SPEC, teacher(server, price_in=1e6, price_out=0))
    made = lever.make(TASK, tiny_base)
    assert len(made.examples) == 20
    assert all(SHAPES[e.prompt.split()[-1]] == e.completion for e in made.examples)
    assert made.notes[-1] == (
        "large answered 96 requests, and the cache 0; it read 480 tokens and wrote 192, which "
        "costs 480.0000."
    )
    again = lever.make(TASK, tiny_base)
    assert again.examples == made.examples
    assert len(server.seen) == 96


def test_a_spent_budget_loses_nothing(server: ChatServer, tiny_base: Any) -> None:
    server.rule = writer()
    with pytest.raises(ModelError, match="token_budget: 350 for large is spent"):
        SelfGuide(SPEC, teacher(server, token_budget=350, concurrency=1)).make(TASK, tiny_base)
    assert len(server.seen) == 50
    SelfGuide(SPEC, teacher(server, concurrency=1)).make(TASK, tiny_base)
    assert len(server.seen) == 96


def test_a_teacher_explains_and_the_base_judges(server: ChatServer, tiny_base: Any) -> None:
    server.rule = lambda text: "the word" if "Which words" in text else "it says so"
    spec = SynthesisSpec(by="teacher", make="auxiliary")
    made = Auxiliary(spec, teacher(server)).make(TASK, tiny_base)
    assert {e.completion for e in made.examples} == {"the word", "it says so"}
    assert {0.5 < e.confidence < 1 for e in made.examples} == {True}
    assert made.notes[-1].startswith(f"large answered {len(server.seen)} requests")
    assert api_client(teacher(server)).usage.requests == len(server.seen) >= 12


def test_a_plan_says_what_the_teacher_would_be_asked(
    server: ChatServer, toy_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy_recipe | {"synthesis": {"by": "teacher"}}
    with pytest.raises(RecipeError, match="`synthesis`: `by: teacher` needs the section `teacher`"):
        plan(recipe, measure=False)
    recipe["teacher"] = {"url": server.url, "model": "large", "api_key_env": "MY_KEY"}
    with pytest.raises(RecipeError, match="MY_KEY is not set"):
        plan(recipe, measure=False)
    monkeypatch.setenv("MY_KEY", "a key")
    assert plan(recipe, measure=False)["before_training"] == [
        "the teacher large makes up to 200 task examples in at most 7,040 requests"
    ]
    assert server.seen == []
