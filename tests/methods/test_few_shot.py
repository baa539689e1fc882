"""Few-shot prompts show task examples before the question, as many as fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

import telltune
from telltune.data.encoding import Encoder
from telltune.data.examples import Example, Message
from telltune.data.task import load_task
from telltune.errors import DataError, RecipeError
from telltune.fitting.protocol import Settings
from telltune.methods.few_shot import calibrated
from telltune.methods.registry import get_method
from telltune.recipe import recipe_from_dict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from chat_server import ChatServer
    from telltune.fitting.predictor import Predictor
    from telltune.models import LoadedModel

SHAPES = ("round", "square", "flat")


def few_shot(base: LoadedModel, recipe: dict[str, Any], **changes: Any) -> Predictor:
    checked = recipe_from_dict(recipe | changes)
    return get_method("few_shot").run(load_task(checked), None, base, Settings(checked))


def asked(predictor: Predictor, example: Example) -> str:
    [ids] = predictor._prompts([example], predictor._shots_for([example]))
    return str(predictor.tokenizer.decode(ids))


def test_examples_are_turns_behind_the_anchor(
    tiny_base: LoadedModel, toy_recipe: dict[str, Any]
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


def test_a_system_turn_stays_first(tiny_base: LoadedModel, toy_recipe: dict[str, Any]) -> None:
    predictor = few_shot(tiny_base, toy_recipe, few_shot={"examples": 1})
    example = Example("item 99 is flat", "", history=(Message("system", "system user"),))
    text = asked(predictor, example)
    assert text.index("system user") < text.index(predictor.shots[0].content)


def test_as_many_as_the_context_holds(tiny_base: LoadedModel, toy_recipe: dict[str, Any]) -> None:
    everything = few_shot(tiny_base, toy_recipe)
    context = tiny_base.model.config.max_position_embeddings
    [ids] = everything._prompts([Example("item 99 is flat", "")], [everything.shots])
    assert 1 < everything.cost.task_examples < 24
    assert context * 0.8 < len(ids) + everything.max_new_tokens <= context


def test_task_tokens_bound_them(tiny_base: LoadedModel, toy_recipe: dict[str, Any]) -> None:
    task = toy_recipe["task"] | {"max_tokens": 150}
    predictor = few_shot(tiny_base, toy_recipe, task=task)
    assert 0 < predictor.cost.task_tokens <= 150


def test_a_long_question_is_shown_fewer(tiny_base: LoadedModel, toy_recipe: dict[str, Any]) -> None:
    predictor = few_shot(tiny_base, toy_recipe)
    context = tiny_base.model.config.max_position_embeddings
    questions = [Example("item 7 is round, " * 20, ""), Example("item 99 is flat", "")]
    long, short = predictor._prompts(questions, [predictor.shots] * 2)
    assert len(long) + predictor.max_new_tokens <= context
    assert predictor.shots[0].content in predictor.tokenizer.decode(long)
    [alone] = predictor._prompts(questions[1:], [predictor.shots])
    assert short == alone
    assert len(predictor.predict(questions)) == 2


def test_no_room_for_one_is_an_error(tiny_base: LoadedModel, toy_recipe: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"train\.jsonl:\d+: one example .* does not fit"):
        few_shot(tiny_base, toy_recipe, evaluation={"max_new_tokens": 470})


def test_beside_its_task_it_is_the_plain_model(
    tiny_base: LoadedModel, toy_recipe: dict[str, Any]
) -> None:
    predictor = few_shot(tiny_base, toy_recipe)
    plain = predictor.beside_its_task(tiny_base.tokenizer)
    text = asked(plain, Example("item 99 is flat", ""))
    assert predictor.shots[0].content not in text
    assert "Name the shape" not in text


def nearest(base: LoadedModel, recipe: dict[str, Any], **changes: Any) -> Predictor:
    checked = recipe_from_dict(recipe | changes)
    return get_method("few_shot_nearest").run(load_task(checked), None, base, Settings(checked))


def topics(tmp_path: Path, write_jsonl: Callable[..., Path], **task: Any) -> dict[str, Any]:
    """Return a task whose questions have obvious neighbors."""
    rows = [
        {"prompt": "the dog barks", "completion": "animals"},
        {"prompt": "pay the invoice", "completion": "money"},
        {"prompt": "heavy snow tonight", "completion": "weather"},
        {"prompt": "a puppy plays", "completion": "animals"},
        {"prompt": "the bank raised rates", "completion": "money"},
        {"prompt": "rain and thunder", "completion": "weather"},
    ]
    return {"train": str(write_jsonl(tmp_path / "topics.jsonl", rows))} | task


def test_each_question_is_shown_its_nearest_the_nearest_last(
    tiny_base: LoadedModel,
    toy_recipe: dict[str, Any],
    tmp_path: Path,
    write_jsonl: Callable[..., Path],
) -> None:
    task = topics(tmp_path, write_jsonl)
    predictor = nearest(tiny_base, toy_recipe, task=task, few_shot={"examples": 2})
    questions = [Example("a puppy plays in the yard", ""), Example("the bill is due", "")]
    animals, money = predictor._shots_for(questions)
    assert [turn.content for turn in animals] == [
        *("the dog barks", "animals", "a puppy plays", "animals")
    ]
    assert {turn.content for turn in money[::2]} == {"pay the invoice", "the bank raised rates"}
    assert money[-2].content == "pay the invoice"
    first, second = (
        str(predictor.tokenizer.decode(ids))
        for ids in predictor._prompts(questions, [animals, money])
    )
    assert "Name the shape" in first
    assert "the dog barks" in first
    assert "invoice" not in first
    assert "invoice" in second
    assert len(predictor.predict(questions)) == 2
    assert predictor.cost.task_examples == 6


def test_the_recipe_can_say_so_as_well(
    tiny_base: LoadedModel,
    toy_recipe: dict[str, Any],
    tmp_path: Path,
    write_jsonl: Callable[..., Path],
) -> None:
    task = topics(tmp_path, write_jsonl)
    spec = {"choose": "nearest", "examples": 3}
    by_recipe = few_shot(tiny_base, toy_recipe, task=task, few_shot=spec)
    by_name = nearest(tiny_base, toy_recipe, task=task, few_shot={"examples": 3})
    question = [Example("a cat sleeps", "")]
    assert by_recipe._shots_for(question) == by_name._shots_for(question)
    loss, _ = by_recipe.nll([Example("a cat sleeps", "animals")])
    shown = by_recipe._shots_for(question)[0]
    alone = few_shot(tiny_base, toy_recipe, task=task)
    wanted, _ = replace(alone, shots=shown).nll([Example("a cat sleeps", "animals")])
    assert float(loss[0]) == pytest.approx(float(wanted[0]))


def test_a_long_question_is_shown_the_nearer_half(
    tiny_base: LoadedModel, toy_recipe: dict[str, Any]
) -> None:
    predictor = nearest(tiny_base, toy_recipe, few_shot={"examples": 4})
    context = tiny_base.model.config.max_position_embeddings
    question = Example("item 99 is flat, " * 60, "")
    [shots] = predictor._shots_for([question])
    assert len(shots) == 8
    [prompt] = predictor._prompts([question], [shots])
    assert len(prompt) + predictor.max_new_tokens <= context
    text = str(predictor.tokenizer.decode(prompt))
    shown = [f"{turn.content}<|im_end|>" in text for turn in shots[::2]]
    assert shown == sorted(shown)
    assert not shown[0]
    assert shown[-1]


def test_nearest_examples_of_any_choice_fit(
    tiny_base: LoadedModel, toy_recipe: dict[str, Any]
) -> None:
    task = load_task(recipe_from_dict(toy_recipe))
    predictor = nearest(tiny_base, toy_recipe, few_shot={"examples": 24})
    context = tiny_base.model.config.max_position_embeddings
    longest = max(task.train, key=lambda example: len(example.prompt))
    [prompt] = predictor._prompts([longest], predictor._shots_for([longest]))
    assert len(prompt) + predictor.max_new_tokens <= context
    [turns] = predictor._shots_for([longest])
    assert 2 < len(turns) // 2 < 24


def test_beside_its_task_no_neighbors_are_shown(
    tiny_base: LoadedModel, toy_recipe: dict[str, Any]
) -> None:
    plain = nearest(tiny_base, toy_recipe).beside_its_task(tiny_base.tokenizer)
    assert "Name the shape" not in asked(plain, Example("item 99 is flat", ""))
    assert plain._shots_for([Example("item 99 is flat", "")]) == [()]


def test_a_constant_in_favor_of_a_label_is_taken_out() -> None:
    generator = torch.Generator().manual_seed(0)
    nll = torch.rand(5, 3, generator=generator, dtype=torch.float64) * 4
    free = torch.rand(2, 3, generator=generator, dtype=torch.float64)
    bias = torch.tensor([3.0, 0.0, -1.0], dtype=torch.float64)
    # A constant after every input makes all labels equally likely.
    uniform = calibrated(bias.repeat(4, 1), bias.repeat(2, 1))
    torch.testing.assert_close((-uniform).exp(), torch.full_like(uniform, 1 / 3))
    # With one input without content, the constant is removed exactly.
    torch.testing.assert_close(calibrated(nll + bias, free[:1] + bias), calibrated(nll, free[:1]))
    probabilities = [(-row).softmax(-1) for row in free]
    wanted = (-nll).exp() / torch.stack(probabilities).mean(0)
    wanted /= wanted.sum(1, keepdim=True)
    torch.testing.assert_close((-calibrated(nll, free)).exp(), wanted)


def test_calibrated_answers_are_labels_that_their_question_makes_likelier(
    tiny_base: LoadedModel, toy_recipe: dict[str, Any]
) -> None:
    # A model that always answers "sheet".
    [sheet] = Encoder(tiny_base.tokenizer).completions([Example("", "sheet")])

    def favor(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        logits[..., sheet[0]] += 8
        return logits

    tiny_base.model.lm_head.register_forward_hook(favor)
    asked_of = [Example(f"item {n} is {kind}", "") for n in range(40, 46) for kind in SHAPES]
    checked = recipe_from_dict(toy_recipe)
    run = get_method("few_shot_calibrated").run
    predictor = run(load_task(checked), None, tiny_base, Settings(checked))
    plain = few_shot(tiny_base, toy_recipe, evaluation={"answers": "likelihood"})
    assert set(plain.predict(asked_of)) == {"sheet"}
    done: list[int] = []
    answers = predictor.predict(asked_of, on_done=done.append)
    assert sum(done) == len(asked_of)
    assert len(set(answers)) > 1
    assert set(answers) <= {"ball", "box", "sheet"}
    # No answer depends on the other questions.
    assert [predictor.predict([one])[0] for one in asked_of[:4]] == answers[:4]


def test_calibration_needs_labels(
    tiny_base: LoadedModel,
    toy_recipe: dict[str, Any],
    tmp_path: Path,
    write_jsonl: Callable[..., Path],
) -> None:
    rows = [{"prompt": f"item {n}", "completion": f"answer {n}"} for n in range(8)]
    path = str(write_jsonl(tmp_path / "texts.jsonl", rows))
    task = {"train": path, "test": path}
    with pytest.raises(RecipeError, match="`few_shot_calibrated` chooses among labels"):
        telltune.compare(
            toy_recipe | {"task": task},
            ["sft", "few_shot_calibrated"],
            out=tmp_path / "out",
            progress=False,
        )
    assert not (tmp_path / "out" / "sft").exists()


def test_beside_its_task_nothing_is_chosen_among_labels(
    tiny_base: LoadedModel, toy_recipe: dict[str, Any]
) -> None:
    checked = recipe_from_dict(toy_recipe)
    run = get_method("few_shot_calibrated").run
    predictor = run(load_task(checked), None, tiny_base, Settings(checked))
    plain = predictor.beside_its_task(tiny_base.tokenizer)
    base = get_method("base").run(load_task(checked), None, tiny_base, Settings(checked))
    questions = [Example("What is the capital of Iceland?", "")]
    assert plain.predict(questions) == base.predict(questions)


def test_a_teacher_is_shown_what_the_base_is_shown(
    server: ChatServer, tiny_base: LoadedModel, toy_recipe: dict[str, Any]
) -> None:
    server.rule = lambda text: f" {text.split()[-1]}\n"
    recipe = recipe_from_dict(toy_recipe | {"teacher": {"url": server.url, "model": "large"}})
    task = load_task(recipe)
    predictor = get_method("few_shot_teacher").run(task, None, tiny_base, Settings(recipe))
    shown = few_shot(tiny_base, toy_recipe)
    assert predictor.shots == shown.shots
    assert predictor.predict([Example("item 99 is flat", "")]) == ["flat"]
    [seen] = server.seen
    texts = [turn["content"] for turn in seen["messages"]]
    assert texts[0].startswith("Name the shape")
    assert texts[0].endswith(task.train[0].prompt)
    assert texts[1:] == [*(turn.content for turn in shown.shots[1:]), "item 99 is flat"]
    assert seen["max_tokens"] == shown.max_new_tokens
    counts = predictor.counts()
    assert (counts["requests"], counts["input_tokens"], counts["output_tokens"]) == (1, 5, 2)
    with pytest.raises(RecipeError, match="no perplexity"):
        predictor.nll(task.dev)


def test_a_teacher_chooses_among_labels_by_structured_answers(
    server: ChatServer, tiny_base: LoadedModel, toy_recipe: dict[str, Any]
) -> None:
    server.replies = ['{"label": "box"}', "It is a Ball."]
    sections = {
        "teacher": {"url": server.url, "model": "large", "concurrency": 1},
        "evaluation": {"answers": "likelihood"},
        "few_shot": {"examples": 20},
    }
    recipe = recipe_from_dict(toy_recipe | sections)
    run = get_method("few_shot_teacher").run
    predictor = run(load_task(recipe), None, tiny_base, Settings(recipe))
    assert len(predictor.shots) == 40  # more than the base's context holds
    assert predictor.predict([Example("a", ""), Example("b", "")]) == ["box", "ball"]
    schema = server.seen[0]["response_format"]["json_schema"]["schema"]
    assert sorted(schema["properties"]["label"]["enum"]) == ["ball", "box", "sheet"]


def test_a_comparison_has_a_row_for_the_teacher(
    server: ChatServer, toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    server.rule = lambda text: {"round": "ball", "square": "box"}.get(text.split()[-1], "sheet")
    recipe = toy_recipe | {"teacher": {"url": server.url, "model": "large"}}
    methods, out = ["base", "few_shot_teacher", "over_prompt_teacher"], tmp_path / "out"
    with pytest.raises(RecipeError, match="`few_shot_teacher` asks the section `teacher`"):
        telltune.compare(toy_recipe, methods, out=out, progress=False)
    rows = telltune.compare(
        recipe | {"over_prompt": {"inputs": 1}}, methods[:2], out=out, progress=False
    )
    scores = {row.method: row.score for row in rows}
    assert scores["few_shot_teacher"] == 100
