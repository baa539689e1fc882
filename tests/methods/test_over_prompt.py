"""OverPrompt reads keys strictly; unreadable answers are asked for again, then in halves."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from telltune.api import fit
from telltune.data.anchor import anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.examples import Example, Message
from telltune.data.numbered import read_answers, say_answers
from telltune.data.task import load_task
from telltune.errors import DataError, ModelError, RecipeError
from telltune.evaluation.answer_warnings import scoring_warnings
from telltune.fitting.adapter_folder import load_predictor
from telltune.fitting.group_predictor import GroupPredictor, by_topic, training_groups
from telltune.fitting.protocol import Settings
from telltune.methods.over_prompt import OVER_PROMPT, OVER_PROMPT_TEACHER
from telltune.recipe import OverPromptSpec, recipe_from_dict
from telltune.serving.models import load_models
from telltune.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from chat_server import ChatServer


class Scripted:
    """Generator that gives the replies of a function."""

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
    """Return the numbers in the inputs of the last question: 7 for "item 7"."""
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
    lengths = np.array([2, 2])
    [told] = scoring_warnings(found, ["0", "1"], lengths, ["it is 0", "it is 1"], (), None)
    assert told.startswith("2 replies to a single input do not contain its number")


def test_groups_that_the_context_cannot_hold_shrink(tiny_base: Any) -> None:
    long = [Example(f"item {n} is {'so ' * 60}", "") for n in range(6)]
    found = predictor(tiny_base, honest, inputs=6)
    assert found.predict(long) == WANTED[:6]
    assert found.usage.shrunk >= 1


def test_inputs_of_several_turns_are_refused(toy_recipe: dict[str, Any], tiny_base: Any) -> None:
    own = [Example("item 1 is it", "a", origin="x.jsonl:3", history=(Message("system", "Be"),))]
    with pytest.raises(DataError, match=r"x\.jsonl:3: .*one turn"):
        predictor(tiny_base, honest, inputs=2).predict([*ITEMS, *own])
    recipe = recipe_from_dict(toy_recipe | {"over_prompt": {"inputs": 1, "shots": 1}})
    task = replace(load_task(recipe), train=tuple(own))
    with pytest.raises(DataError, match=r"x\.jsonl:3: .*one turn"):
        OVER_PROMPT.run(task, None, tiny_base, Settings(recipe))


def test_inputs_with_numbered_lines_are_not_taken_apart(tiny_base: Any) -> None:
    lists = [Example(f"item {n} is it\n1. item 8\n2. item 9", "") for n in range(4)]
    seen: list[str] = []

    def reply(text: str, temperature: float) -> str:
        seen.append(text)
        return say_answers(["a", "b", "c", "d"], "lines")

    assert predictor(tiny_base, reply, inputs=4).predict(lists) == ["a", "b", "c", "d"]
    question = seen[0].split("on one line.")[1]
    assert re.findall(r"^(\d+)\. ", question, re.MULTILINE) == ["1", "2", "3", "4"]


def test_like_stands_beside_like() -> None:
    texts = ["red ball", "cold rain", "red box", "cold snow", "red ball box"]
    order = by_topic(texts)
    assert sorted(order) == [*range(5)]
    assert {*order[:3]} == {0, 2, 4}


@pytest.mark.parametrize(
    "texts", [["3 + 4", "1 - 2", "3 + 5"], ["?", "!"], ["好", "坏"], ["", "a"], ["x"], []]
)
def test_texts_without_words_have_an_order_too(texts: list[str]) -> None:
    assert sorted(by_topic(texts)) == [*range(len(texts))]


def test_a_prompt_that_loses_its_start_is_told_and_one_without_room_refused(tiny_base: Any) -> None:
    long = [Example(f"item {'x ' * 40}{n}", "") for n in range(2)]
    asked = predictor(tiny_base, lambda *_: "1. ball", inputs=1)
    context = tiny_base.model.config.max_position_embeddings
    asked.max_new_tokens = context - 40
    asked.predict(long)
    [told] = asked.remarks()
    assert told.startswith("2 prompts with a single input lost their start")
    asked.max_new_tokens = context
    with pytest.raises(RecipeError, match="no room for a prompt"):
        asked.predict(long)


def test_it_runs_on_a_model_behind_a_solved_group(
    toy_recipe: dict[str, Any], tiny_base: Any
) -> None:
    recipe = recipe_from_dict(toy_recipe | {"over_prompt": {"inputs": 3, "shots": 2}})
    task = load_task(recipe)
    found = OVER_PROMPT.run(task, None, tiny_base, Settings(recipe))
    assert [turn.role for turn in found.shots] == ["user", "assistant"] * 2
    assert read_answers(found.shots[1].content, 3) == [e.completion for e in task.train[:3]]
    assert found.cost.task_examples == 6
    assert len(found.predict(task.dev)) == len(task.dev)
    # A study stores it.
    counts = found.counts()
    assert counts["task_examples"] == 6
    assert counts["prompts"] >= len(task.dev) / 3
    assert counts["input_tokens"] > counts["output_tokens"] > 0
    few = recipe_from_dict(toy_recipe | {"over_prompt": {"inputs": 20, "shots": 2}})
    with pytest.raises(DataError, match="need 40 examples"):
        OVER_PROMPT.run(task, None, tiny_base, Settings(few))
    likely = recipe_from_dict(toy_recipe | {"evaluation": {"answers": "likelihood"}})
    with pytest.raises(RecipeError, match="needs generated replies"):
        OVER_PROMPT.run(task, None, tiny_base, Settings(likely)).predict(task.dev)


def test_a_teacher_answers_groups(
    server: ChatServer, toy_recipe: dict[str, Any], tiny_base: Any
) -> None:
    server.rule = lambda text: honest(text, 0.0)
    sections = {
        "over_prompt": {"inputs": 5, "shots": 1},
        "teacher": {"url": server.url, "model": "large"},
    }
    recipe = recipe_from_dict(toy_recipe | sections)
    found = OVER_PROMPT_TEACHER.run(load_task(recipe), None, tiny_base, Settings(recipe))
    assert found.predict(ITEMS) == WANTED
    assert len(server.seen) == 2
    first = server.seen[0]["messages"]
    assert [turn["role"] for turn in first] == ["user", "assistant", "user"]
    assert first[0]["content"].startswith("Name the shape")
    counts = found.counts()
    assert (counts["prompts"], counts["input_tokens"], counts["output_tokens"]) == (2, 10, 4)


def test_training_groups_have_all_sizes_that_halving_asks(tiny_base: Any) -> None:
    encoder = Encoder(anchored_tokenizer(tiny_base.tokenizer, None))
    examples = [Example(f"item {n} is it", f"n{n}") for n in range(20)]
    groups = training_groups(examples, OverPromptSpec(inputs=5), 0, encoder, 512)
    seen: dict[int, list[str]] = {}
    for group in groups:
        numbers = numbers_in(group.prompt)
        # Every answer stands at the number of its input, in the form that is read again.
        assert read_answers(group.completion, len(numbers)) == [f"n{n}" for n in numbers]
        seen.setdefault(len(numbers), []).extend(numbers)
    assert list(seen) == [5, 3, 2, 1]
    # 20 examples in groups of three leave a pair.
    assert (
        sorted(seen[3] + seen[2][:2], key=int)
        == sorted(seen[5], key=int)
        == sorted(seen[1], key=int)
    )
    assert len({tuple(one) for one in seen.values()}) == 4
    assert training_groups(examples, OverPromptSpec(inputs=5), 0, encoder, 512) == groups
    assert training_groups(examples, OverPromptSpec(inputs=5), 1, encoder, 512) != groups
    longest = int(encoder.encode(groups).lengths.max())
    shorter = training_groups(examples, OverPromptSpec(inputs=5), 0, encoder, longest - 1)
    assert encoder.encode(shorter).lengths.max() < longest
    assert len(shorter) > len(groups)


def test_an_adapter_learns_groups_and_answers_in_them(
    toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe = toy_recipe | {
        "method": "sft_over_prompt",
        "general": None,
        "over_prompt": {"inputs": 2},
        "mixture": {"passes": 40},
    }
    recipe["task"] |= {"max_examples": 12}
    recipe["training"] |= {"full_parameters": True}
    record = fit(recipe, tmp_path / "out", progress=False).record
    assert record["labeled"]["task_examples"] == 12
    assert record["counts"]["task_examples"] == 6 + 12
    assert record["over_prompt"]["inputs"] == 2
    found = load_predictor(tmp_path / "out")
    assert isinstance(found, GroupPredictor)
    items = load_task(recipe_from_dict(recipe)).train[:12]
    answers = found.predict(items)
    assert 6 <= found.usage.prompts < 12
    assert sum(a == e.completion for a, e in zip(answers, items, strict=True)) >= 10
    checks = verify(tmp_path / "out").checks
    assert not any(check.held is False for check in checks)
    assert any("put into groups" in check.reason for check in checks)
    with pytest.raises(ModelError, match="out answers groups of inputs"):
        load_models([tmp_path / "out"], most=2)
    with pytest.raises(RecipeError, match="no label scores"):
        found.label_scores(items)
    likely = recipe | {"evaluation": {"answers": "likelihood"}}
    with pytest.raises(RecipeError, match="trains on groups of inputs"):
        fit(likely, tmp_path / "likely", progress=False)
