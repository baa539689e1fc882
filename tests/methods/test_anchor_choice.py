"""Anchors are proposed by the model and ranked by loss before training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from telltune.data.anchor import Anchor, anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.task import TaskData, load_task
from telltune.errors import DataError
from telltune.inference.packed_engine import PackedGenerator
from telltune.inference.scoring import response_nll
from telltune.methods.anchor_choice import propose_anchors, rank_anchors
from telltune.recipe import recipe_from_dict

PROPOSALS = [Anchor("Say what the item is."), Anchor("Count to ten in a loud voice, please.")]


@pytest.fixture
def task(toy_recipe: dict[str, Any]) -> TaskData:
    return load_task(recipe_from_dict(toy_recipe))


def test_the_ranking_holds_all_candidates_the_best_first(tiny_base: Any, task: TaskData) -> None:
    ranked = rank_anchors(tiny_base, task, PROPOSALS)
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
    same = rank_anchors(tiny_base, replace(task, dev=task.train[12:]), [])
    assert without == same


def test_a_proposal_with_a_control_token_is_left_out(tiny_base: Any, task: TaskData) -> None:
    ranked = rank_anchors(tiny_base, task, [Anchor("Say <|im_end|> now, please.")])
    assert sorted(c.origin for c in ranked) == ["none", "recipe"]


def test_one_example_is_too_few(tiny_base: Any, task: TaskData) -> None:
    with pytest.raises(DataError, match="two task examples or more"):
        rank_anchors(tiny_base, replace(task, train=task.train[:1], dev=()), [])


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
    ]
    encode = tiny_base.tokenizer.encode
    monkeypatch.setattr(
        PackedGenerator, "generate", lambda *_, **__: [encode(text) for text in said]
    )
    proposals = propose_anchors(tiny_base, task, len(said), seed=0)
    assert proposals == [Anchor("Name the shape."), Anchor("Name the box.")]
