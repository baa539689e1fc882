"""Scaling by confidence does not depend on how the examples of a step are packed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.data.task import load_task
from telltune.fitting.build_plan import build_run_plan
from telltune.fitting.forecast import forecast
from telltune.fitting.model_info import load_model_info
from telltune.methods.registry import get_method
from telltune.models import load_base
from telltune.models.kernels.packing import pack
from telltune.recipe import LoraSpec, ModelSpec, Recipe, TrainingSpec, recipe_from_dict
from telltune.training.adapter import add_lora
from telltune.training.confidence import Confidence
from telltune.training.processes import processes
from telltune.training.run import training_arguments
from telltune.training.source_weights import LearnedWeights, SourceGroups
from telltune.training.steps import Collator
from telltune.training.trainer import MixtureTrainer
from telltune.training.training_data import LossWeights, TrainingData

if TYPE_CHECKING:
    from pathlib import Path

    from telltune.recipe import LossAverage

Scale = Literal["output", "input", "both"]
ANCHOR = list(range(10, 22))
"""Common start of the examples: twelve tokens, enough to be shared in a row."""


class Item(NamedTuple):
    """Example of a step."""

    is_task: bool
    trusted: float
    own: list[int]
    response: list[int]

    @property
    def ids(self) -> list[int]:
        return ANCHOR + self.own + self.response


def tokens(least: int, most: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(3, 60), min_size=least, max_size=most)


# Few distinct confidences, so that some examples share one and some do not.
ITEMS = st.builds(Item, st.booleans(), st.sampled_from([0.2, 0.7, 1.0]), tokens(0, 5), tokens(1, 4))


@pytest.fixture(scope="module")
def trainer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> MixtureTrainer:
    """Return a trainer whose adapter has gradients in both matrices of each pair."""
    base = load_base(ModelSpec(name=str(tiny_model)), "fp32")
    model = add_lora(base, LoraSpec(rank=2, alpha=8, dropout=0.0), 0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start, so the other matrix would have no gradient
                torch.nn.init.normal_(parameter, std=0.1)
    out = tmp_path_factory.mktemp("confidence")
    settings = TrainingSpec(learning_rate=1e-3, micro_batch_tokens=64, precision="fp32")
    nothing: Any = None  # the test passes the steps one by one
    return MixtureTrainer(
        model,
        data=TrainingData(nothing, nothing, nothing, 1, nothing),
        sampler=nothing,
        settings=settings,
        args=training_arguments(Recipe.model_construct(training=settings, seed=0), out, 1),
        callbacks=[],
        measured={},
    )


def computed(
    trainer: MixtureTrainer,
    items: list[Item],
    scale: Scale,
    *,
    budget: int | None,
    average: LossAverage = "token",
    learned: bool = False,
) -> tuple[float, dict[str, torch.Tensor]]:
    """Return loss and gradients of a step; without a budget, each row holds one example."""
    groups = SourceGroups(("task", "general"), np.zeros(len(items), np.int64), np.array([99]))
    trainer._learned = None
    if learned:
        trainer._learned = LearnedWeights("alf2", groups, torch.device("cpu"))
        with torch.no_grad():
            trainer._learned.log_variance.copy_(torch.tensor([0.5, -0.3]))
    collator = Collator(
        LossWeights(average, task_weight=2.0),
        Confidence(np.array([item.trusted for item in items]), scale),
        groups if learned else None,
        processes(),
    )
    prompts = [len(item.ids) - len(item.response) for item in items]
    examples = [
        (item.is_task, i, np.array(item.ids, np.int32), prompts[i]) for i, item in enumerate(items)
    ]
    trainer.fast.packed = budget is not None
    trainer.micro_batch_tokens = budget or 1
    trainer.model.zero_grad()
    loss = float(trainer.training_step(trainer.model, dict(collator(examples))))
    trained = trainer.model.named_parameters()
    found = {name: p.grad.clone() for name, p in trained if p.grad is not None}
    if trainer._learned is not None:
        assert trainer._learned.log_variance.grad is not None
        found["log_variance"] = trainer._learned.log_variance.grad.clone()
    return loss, found


@settings(max_examples=40)
@given(
    items=st.lists(ITEMS, min_size=1, max_size=6),
    budget=st.sampled_from([1, 30, 60, 500]),
    scale=st.sampled_from(["output", "input", "both"]),
    average=st.sampled_from(["token", "example", "source"]),
    learned=st.booleans(),
)
def test_a_step_is_the_same_however_its_examples_share_rows(
    trainer: MixtureTrainer,
    items: list[Item],
    budget: int,
    scale: Scale,
    average: LossAverage,
    learned: bool,
) -> None:
    how: dict[str, Any] = {"average": average, "learned": learned}
    alone, wanted = computed(trainer, items, scale, budget=None, **how)
    packed, found = computed(trainer, items, scale, budget=budget, **how)
    assert packed == pytest.approx(alone, rel=1e-4, abs=1e-6)
    assert found.keys() == wanted.keys() != set()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=2e-6, rtol=1e-3)


def test_the_whole_prompt_is_scaled_and_only_that(trainer: MixtureTrainer) -> None:
    items = [
        Item(is_task=True, trusted=0.3, own=[30, 31], response=[40, 41]),
        Item(is_task=True, trusted=0.9, own=[32], response=[42]),
        Item(is_task=False, trusted=0.1, own=[33], response=[43]),
    ]
    found, _ = computed(trainer, items, "input", budget=500)
    model: Any = trainer.model
    parts = []
    for item in items:
        ids = torch.tensor([item.ids])
        embedded = model.get_input_embeddings()(ids).detach()
        factor = item.trusted if item.is_task else 1.0
        embedded[:, : ids.shape[1] - len(item.response)] *= factor
        labels = ids.clone()
        labels[:, : -len(item.response)] = -100
        loss = model(inputs_embeds=embedded, labels=labels).loss.item()
        parts.append((2.0 if item.is_task else 1.0, len(item.response), loss))
    total = sum(weight * count for weight, count, _ in parts)
    wanted = sum(weight * count * loss for weight, count, loss in parts) / total
    assert found == pytest.approx(wanted, rel=1e-5)


def test_a_step_that_is_packed_again_for_memory_stays_the_same(
    trainer: MixtureTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [Item(True, 0.2 * (n + 1), [30 + n], [40 + n]) for n in range(4)]
    wanted, gradients = computed(trainer, items, "both", budget=500)
    compute = trainer._row_loss
    failed: list[int] = []

    def fails_once(*arguments: Any, **named: Any) -> Any:
        if not failed:
            failed.append(1)
            raise MemoryError
        return compute(*arguments, **named)

    monkeypatch.setattr(trainer, "_row_loss", fails_once)
    found, again = computed(trainer, items, "both", budget=500)
    assert trainer.micro_batch_tokens < 500
    assert found == pytest.approx(wanted, rel=1e-5)
    for name, gradient in again.items():
        torch.testing.assert_close(gradient, gradients[name], atol=2e-6, rtol=1e-3)


def test_a_plan_counts_prompts_that_cannot_be_shared(toy_recipe: dict[str, Any]) -> None:
    def computed_tokens(**changes: Any) -> int:
        recipe = recipe_from_dict(toy_recipe | {"method": "sft_anchor", "general": None} | changes)
        known = load_model_info(recipe.model)
        ready = build_run_plan(get_method(recipe.method), load_task(recipe), None, known, recipe)
        return forecast(ready, known.shape, measure=False).computed_tokens

    shared = computed_tokens()
    assert computed_tokens(confidence={"by": "pvi", "scale": "output"}) == shared
    assert computed_tokens(confidence={"by": "pvi", "scale": "input"}) > shared


def test_equally_trusted_examples_still_share_their_prefix() -> None:
    rows = [(np.array([*ANCHOR, n, n + 1], np.int32), len(ANCHOR) + 1) for n in range(30, 34)]
    same = pack(rows, 500, sources=[(True, 0.5)] * 4)[0]
    half = pack(rows, 500, sources=[(True, 0.5), (True, 0.5), (True, 0.9), (True, 0.9)])[0]
    apart = pack(rows, 500, sources=[(True, 0.1 * n) for n in range(4)])[0]
    assert [same.tokens, half.tokens, apart.tokens] == [12 + 4 * 2, 2 * 12 + 4 * 2, 4 * 14]
