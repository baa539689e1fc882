"""Losses of tokens are exact and evenly spaced, also for interrupted trainings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import TrainerCallback

from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.data.task import load_general, load_task
from telltune.fitting.build_plan import build_run_plan
from telltune.fitting.model_info import ModelInfo
from telltune.methods.trained import TELL
from telltune.models import load_base
from telltune.recipe import recipe_from_dict
from telltune.research.quanta.losses import LossRecorder, token_losses
from telltune.training.run import TrainingOptions, train

if TYPE_CHECKING:
    from pathlib import Path

    from telltune.data.encoded import EncodedSet

pytestmark = pytest.mark.usefixtures("small_batches")


@pytest.fixture
def held_out(tiny_tokenizer: Any) -> EncodedSet:
    """Return long and short examples in turn, so that rows hold them in another order."""
    examples = [
        Example("item 7 is round", "ball"),
        Example("a much longer question: what is item 9, which is rather flat", "sheet of ice"),
        Example("item", "box"),
        Example("item 8 is square, item 9 is flat", "box and sheet"),
    ]
    return Encoder(tiny_tokenizer).encode(examples)


@pytest.mark.parametrize("budget", [2048, 60])
def test_every_token_has_its_own_loss(tiny_base: Any, held_out: EncodedSet, budget: int) -> None:
    found = token_losses(tiny_base.model, held_out, budget=budget)
    wanted = []
    for i in range(len(held_out)):
        ids, prompt = held_out[i]
        row = torch.tensor(ids.astype(np.int64))
        with torch.no_grad():
            logits = tiny_base.model(row[None]).logits[0, prompt - 1 : -1]
        wanted += functional.cross_entropy(logits, row[prompt:], reduction="none").tolist()
    assert found == pytest.approx(wanted, abs=1e-3)


def test_looking_leaves_a_model_in_training(tiny_base: Any, held_out: EncodedSet) -> None:
    tiny_base.model.train()
    token_losses(tiny_base.model, held_out)
    assert tiny_base.model.training


class Stopped(Exception):  # noqa: N818 - as when a machine goes down
    """Error that ends a run before its last step."""


class StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise Stopped


@pytest.fixture
def values(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe of eight steps with dropout and a checkpoint every three steps."""
    toy_recipe["task"]["max_examples"] = 8
    toy_recipe["mixture"] = {"general_examples": 16, "passes": 2}
    toy_recipe["lora"]["dropout"] = 0.5
    toy_recipe["training"]["save_steps"] = 3
    return toy_recipe


def trained(values: dict[str, Any], out: Path, callbacks: list[TrainerCallback]) -> Any:
    recipe = recipe_from_dict(values)
    base = load_base(recipe.model, "fp32")
    known = ModelInfo.of(base.model.config, base.tokenizer)
    ready = build_run_plan(TELL, load_task(recipe), load_general(recipe), known, recipe)
    model = train(base, recipe, ready, TrainingOptions(out=out, callbacks=callbacks)).model
    return {name: w.clone() for name, w in model.named_parameters() if w.requires_grad}


def test_recording_changes_nothing_and_a_killed_run_records_the_same(
    values: dict[str, Any], held_out: EncodedSet, tmp_path: Path
) -> None:
    plain = trained(values, tmp_path / "plain", [])

    whole = LossRecorder(tmp_path / "whole" / "losses.jsonl", held_out, moments=4)
    recorded = trained(values, tmp_path / "whole", [whole])
    assert all(torch.equal(weight, recorded[name]) for name, weight in plain.items())
    curves = whole.curves()
    assert curves.steps.tolist() == [0, 2, 4, 6, 8]
    assert curves.losses.shape == (5, held_out.response_lengths.sum())
    assert (curves.losses[0] != curves.losses[-1]).all()

    killed = LossRecorder(tmp_path / "killed" / "losses.jsonl", held_out, moments=4)
    with pytest.raises(Stopped):
        trained(values, tmp_path / "killed", [killed, StopAfter(5)])
    # Step 4 comes after the checkpoint; its line is incomplete, as after a kill.
    text = killed.path.read_text()
    assert [json.loads(line)["step"] for line in text.splitlines()] == [0, 2, 4]
    killed.path.write_text(text[:-20])
    again = trained(values, tmp_path / "killed", [killed])
    assert all(torch.equal(weight, again[name]) for name, weight in plain.items())
    assert killed.curves().steps.tolist() == curves.steps.tolist()
    assert np.array_equal(killed.curves().losses, curves.losses)


def test_a_run_shorter_than_its_moments_is_looked_at_every_step(
    values: dict[str, Any], held_out: EncodedSet, tmp_path: Path
) -> None:
    recorder = LossRecorder(tmp_path / "losses.jsonl", held_out, moments=50)
    trained(values, tmp_path, [recorder])
    assert recorder.curves().steps.tolist() == list(range(9))
