"""OverPrompt: keys are read strictly, and what cannot be read is asked again, then in halves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from telltune.data.anchor import anchored_tokenizer
from telltune.data.examples import Example
from telltune.data.task import load_task
from telltune.errors import DataError, RecipeError
from telltune.methods.over_prompt import (
    OVER_PROMPT,
    GroupPredictor,
    ask_group,
    by_topic,
    read_answers,
    say_answers,
)
from telltune.methods.protocol import Settings
from telltune.recipe import OverPromptSpec, recipe_from_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@pytest.mark.parametrize("form", ["lines", "json"])
def test_what_is_said_is_read_again(form: Any) -> None:
    answers = ["a ball", "2: a box", '"sheet" {x}', "7"]
    assert read_answers(say_answers(answers, form), 4, form) == answers
    assert ask_group(["p", "q"], form).endswith("\n\n1. p\n2. q")


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("1: a\n2: b", ["a", "b"]),
        ("Sure!\n1. a\n2) b\nDone.", ["a", "b"]),
        ("2: b\n1: a", ["a", "b"]),
        ("1: a", None),
        ("1: a\n2: b\n3: c", None),
        ("0: a\n1: b", None),
        ("1: a\n1: b", None),
        ("1: a\n2: b\n2: c", None),
        ("1: a\n2:", None),
        ("", None),
    ],
)
def test_lines_are_read_by_their_numbers(reply: str, found: list[str] | None) -> None:
    assert read_answers(reply, 2, "lines") == found


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('{"1": "a", "2": "b"}', ["a", "b"]),
        ('Here: {"2": 5, "1": "a"} ok', ["a", "5"]),
        ('{"1": "a"}', None),
        ('{"1": "a", "1": "b"}', None),
        ('{"1": "a", "2": "b", "2": "c"}', None),
        ('{"1": "a", "2": ["b"]}', None),
        ('["a", "b"]', None),
        ('{"1": "a", "2": "b"', None),
    ],
)
def test_json_is_read_by_its_keys(reply: str, found: list[str] | None) -> None:
    assert read_answers(reply, 2, "json") == found


class Scripted:
    """A model that answers as it is told: the edge where a real one begins."""

    def __init__(self, tokenizer: Any, reply: Callable[[str, float], str]) -> None:
        self.tokenizer, self.reply = tokenizer, reply
        self.asked: list[str] = []

    def generate(self, prompts: Sequence[Any], *, temperature: float, **_: Any) -> list[list[int]]:
        texts = [self.tokenizer.decode(prompt) for prompt in prompts]
        self.asked += texts
        return [self.tokenizer.encode(self.reply(text, temperature)) for text in texts]


def predictor(base: Any, reply: Callable[[str, float], str], **spec: Any) -> GroupPredictor:
    found = GroupPredictor(
        base.model, anchored_tokenizer(base.tokenizer, None), None, 4, spec=OverPromptSpec(**spec)
    )
    found._generator = Scripted(base.tokenizer, reply)  # type: ignore[assignment]
    return found


def numbers_in(text: str) -> list[str]:
    """What the inputs of the last question ask about: "item 7" asks about 7."""
    question = text.split("nothing else.")[-1]
    return [line.split("item ")[1].split()[0] for line in question.splitlines() if "item " in line]


def honest(text: str, temperature: float) -> str:
    return say_answers([f"n{number}" for number in numbers_in(text)], "lines")


ITEMS = [Example(f"item {n} is it", "") for n in range(10)]
WANTED = [f"n{n}" for n in range(10)]


def test_a_group_is_one_prompt_and_answers_go_to_their_inputs(tiny_base: Any) -> None:
    for order in ("given", "shuffled", "topic"):
        found = predictor(tiny_base, honest, inputs=4, order=order)
        done: list[int] = []
        assert found.predict(ITEMS, on_done=done.append) == WANTED
        assert (found.usage.prompts, sum(done)) == (3, 10)
        assert found.usage.retried == found.usage.halved == found.usage.unread == 0
        assert found.usage.input_tokens > found.usage.output_tokens > 0


def test_what_cannot_be_read_is_asked_again_then_in_halves(tiny_base: Any) -> None:
    def only_pairs(text: str, temperature: float) -> str:
        return honest(text, temperature) if len(numbers_in(text)) <= 2 else "1: what?"

    found = predictor(tiny_base, only_pairs, inputs=5)
    assert found.predict(ITEMS) == WANTED
    # Two groups of five, each asked twice, then 3 + 2, and the threes twice, then 2 + 1.
    assert (found.usage.retried, found.usage.halved, found.usage.unread) == (4, 4, 0)

    def at_second(text: str, temperature: float) -> str:
        return honest(text, temperature) if temperature else ""

    found = predictor(tiny_base, at_second, inputs=5)
    assert found.predict(ITEMS) == WANTED
    assert (found.usage.retried, found.usage.halved, found.usage.prompts) == (2, 0, 4)


def test_a_single_reply_without_a_key_is_the_answer_and_counted(tiny_base: Any) -> None:
    found = predictor(tiny_base, lambda text, _: f"it is {numbers_in(text)[0]}", inputs=2)
    assert found.predict(ITEMS[:2]) == ["it is 0", "it is 1"]
    assert found.usage.unread == 2


def test_groups_that_the_context_cannot_hold_shrink(tiny_base: Any) -> None:
    long = [Example(f"item {n} is {'so ' * 60}", "") for n in range(6)]
    found = predictor(tiny_base, honest, inputs=6)
    assert found.predict(long) == WANTED[:6]
    assert found.usage.shrunk >= 1


def test_like_stands_beside_like() -> None:
    texts = ["red ball", "cold rain", "red box", "cold snow", "red ball box"]
    order = by_topic(texts)
    assert sorted(order) == [*range(5)]
    assert {*order[:3]} == {0, 2, 4}


def test_it_runs_on_a_model_behind_a_solved_group(
    toy_recipe: dict[str, Any], tiny_base: Any
) -> None:
    recipe = recipe_from_dict(toy_recipe | {"over_prompt": {"inputs": 3, "shots": 2}})
    task = load_task(recipe)
    found = OVER_PROMPT.run(task, None, tiny_base, Settings(recipe))
    assert [turn.role for turn in found.shots] == ["user", "assistant"] * 2
    assert read_answers(found.shots[1].content, 3, "lines") == [
        e.completion for e in task.train[:3]
    ]
    assert found.cost.task_examples == 6
    assert len(found.predict(task.dev)) == len(task.dev)
    # What a study keeps of it.
    counts = found.counts()
    assert counts["task_examples"] == 6
    assert counts["prompts"] >= len(task.dev) / 3
    assert counts["input_tokens"] > counts["output_tokens"] > 0
    few = recipe_from_dict(toy_recipe | {"over_prompt": {"inputs": 20, "shots": 2}})
    with pytest.raises(DataError, match="are 40 examples"):
        OVER_PROMPT.run(task, None, tiny_base, Settings(few))
    likely = recipe_from_dict(toy_recipe | {"evaluation": {"answers": "likelihood"}})
    with pytest.raises(RecipeError, match="reads replies"):
        OVER_PROMPT.run(task, None, tiny_base, Settings(likely)).predict(task.dev)
