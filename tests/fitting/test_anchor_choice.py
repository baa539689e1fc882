"""Anchors are proposed by the model and ranked by their loss before training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from telltune.api import anchor
from telltune.data.anchor import Anchor, anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.task import TaskData, load_task
from telltune.errors import DataError
from telltune.fitting import anchor_choice as module
from telltune.fitting.anchor_choice import propose_anchors, rank_anchors
from telltune.inference.packed_engine import PackedGenerator
from telltune.inference.scoring import response_nll
from telltune.recipe import recipe_from_dict

if TYPE_CHECKING:
    from chat_server import ChatServer

PROPOSALS = [Anchor("Say what the item is."), Anchor("Count to ten in a loud voice, please.")]


@pytest.fixture
def task(toy_recipe: dict[str, Any]) -> TaskData:
    return load_task(recipe_from_dict(toy_recipe))


def test_the_ranking_holds_all_candidates_the_best_first(tiny_base: Any, task: TaskData) -> None:
    ranking = rank_anchors(tiny_base, task, PROPOSALS)
    ranked = ranking.candidates
    assert (ranking.held_out, ranking.warnings) == (12, [])
    assert sorted(c.origin for c in ranked) == ["model", "model", "none", "recipe"]
    assert [c.loss for c in ranked] == sorted(c.loss for c in ranked)
    by_origin = {c.origin: c for c in ranked}
    assert by_origin["none"].anchor is None
    assert by_origin["none"].tokens == 0
    assert by_origin["recipe"].anchor == task.anchor
    assert len(task.dev) == 12
    for candidate in ranked:
        tokenizer = anchored_tokenizer(tiny_base.tokenizer, candidate.anchor)
        encoded = Encoder(tokenizer).encode(task.dev)
        loss = float(response_nll(tiny_base.model, encoded).sum()) / encoded.response_lengths.sum()
        assert candidate.loss == pytest.approx(loss, rel=1e-5)
        if candidate.anchor is not None:
            added = tiny_base.tokenizer(candidate.anchor.prompt + "\n\n")["input_ids"]
            assert candidate.tokens == pytest.approx(len(added), abs=2)


def test_without_dev_data_half_of_the_training_data_is_held_out(
    tiny_base: Any, task: TaskData
) -> None:
    without = rank_anchors(tiny_base, replace(task, dev=()), [])
    same = rank_anchors(tiny_base, replace(task, dev=task.train[12:], train=task.train[:12]), [])
    assert without == same
    assert without.held_out == 12


@pytest.mark.parametrize("dev", [True, False])
@pytest.mark.parametrize("count", [1, 7, 40])
def test_no_example_that_was_shown_is_ranked_on(
    tiny_base: Any, task: TaskData, monkeypatch: pytest.MonkeyPatch, dev: bool, count: int
) -> None:
    # One question is in both halves, and one dev question is in the training data.
    train = (*task.train, replace(task.train[0], completion="box"))
    items = (*task.dev, task.train[5])
    task = replace(task, train=train, dev=items if dev else ())
    asked: list[Any] = []
    scored: list[Any] = []
    monkeypatch.setattr(
        PackedGenerator, "generate", lambda _, prompts, **__: asked.extend(prompts) or []
    )
    propose_anchors(tiny_base, task, count, seed=0)
    monkeypatch.setattr(
        module,
        "response_nll",
        lambda model, encoded: scored.append(encoded) or response_nll(model, encoded),
    )
    ranking = rank_anchors(tiny_base, task, [])
    shown = "\n".join(tiny_base.tokenizer.batch_decode(asked)) + "\n"
    encoded = scored[0]  # without an anchor
    ranked = tiny_base.tokenizer.batch_decode([encoded[i][0] for i in range(len(encoded))])
    assert len(asked) == count
    assert len(ranked) == ranking.held_out == 12
    everything = (*task.train, *task.dev)
    questions = {e.prompt for e in everything if f"Input: {e.prompt}\n" in shown}
    held_out = {e.prompt for e in everything if any(f"\n{e.prompt}<" in text for text in ranked)}
    assert questions
    assert len(held_out) == 12
    assert not questions & held_out


def test_a_ranking_on_few_examples_says_so(tiny_base: Any, task: TaskData) -> None:
    few = rank_anchors(tiny_base, replace(task, train=task.train[:6], dev=()), [])
    assert few.held_out == 3
    assert "only 3 held-out" in few.warnings[0]


def test_a_proposal_with_a_control_token_is_left_out(tiny_base: Any, task: TaskData) -> None:
    ranking = rank_anchors(tiny_base, task, [Anchor("Say <|im_end|> now, please.")])
    assert sorted(c.origin for c in ranking.candidates) == ["none", "recipe"]


def test_without_an_example_to_hold_out_nothing_is_ranked(tiny_base: Any, task: TaskData) -> None:
    same = (task.train[0],) * 4
    for changes in (
        {"train": same[:1], "dev": ()},
        {"train": same, "dev": ()},
        {"dev": task.train},
    ):
        with pytest.raises(DataError, match="dev examples is left"):
            rank_anchors(tiny_base, replace(task, **changes), [])


def test_proposals_are_the_same_for_the_same_seed(tiny_base: Any, task: TaskData) -> None:
    first = propose_anchors(tiny_base, task, 2, seed=1)
    assert propose_anchors(tiny_base, task, 2, seed=1) == first
    assert len(first) <= 2
    assert all(len(anchor.prompt.split()) >= 3 for anchor in first)


def test_repeated_and_empty_proposals_are_left_out(
    tiny_base: Any, task: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [
        "Name the shape.",
        ' Instruction: "Name  the shape."\n\nFor example',
        "Name the box.",
        "no",
        "",
        "请写出形状。",
    ]
    encode = tiny_base.tokenizer.encode
    monkeypatch.setattr(
        PackedGenerator, "generate", lambda *_, **__: [encode(text) for text in said]
    )
    proposals = propose_anchors(tiny_base, task, len(said), seed=0)
    assert proposals == [Anchor("Name the shape."), Anchor("Name the box."), Anchor("请写出形状。")]


def test_a_teacher_proposes_and_the_base_ranks(
    server: ChatServer, toy_recipe: dict[str, Any]
) -> None:
    server.rule = lambda text: f"Instruction: Name the shape, plan {len(server.seen)}."
    ranking = anchor(toy_recipe | {"teacher": {"url": server.url, "model": "large"}}, candidates=3)
    assert [c.origin for c in ranking.candidates].count("teacher") == 3
    assert ranking.notes[0].startswith("large answered 3 requests, and the cache 0; it read 15")
    assert "Input: item" in server.seen[0]["messages"][-1]["content"]
