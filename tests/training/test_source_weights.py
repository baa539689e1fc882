"""Weights of sources reach known optima, and noisy sources get lower weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch

from telltune.api import fit
from telltune.data.examples import Example
from telltune.data.general import GeneralData
from telltune.fitting.general_choice import ChosenData
from telltune.methods.self_sampled import SampledData
from telltune.recipe import DataSpec
from telltune.training.source_weights import LearnedWeights, SourceGroups, source_groups

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("small_batches")

CPU = torch.device("cpu")
GROUPS = SourceGroups(("task", "general: a", "general: b"), np.zeros(4, np.int64), np.array([3, 8]))


def test_an_example_belongs_to_the_data_set_that_it_stands_in() -> None:
    is_task = np.array([True, False, False, False, True, False])
    index = np.array([3, 0, 2, 3, 0, 7])
    assert GROUPS.of(is_task, index).tolist() == [0, 1, 1, 2, 0, 2]


def test_files_are_sources_and_general_data_sets_too(
    write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    paths = [
        write_jsonl(
            tmp_path / f"{name}.jsonl",
            [{"prompt": f"{name} {n}", "completion": "x"} for n in range(count)],
        )
        for name, count in (("one", 3), ("two", 5))
    ]
    general = GeneralData("both", tuple(DataSpec(path=str(path)) for path in paths))
    task = [Example("q", "a", source=source) for source in ("x", "y", "x")]
    groups = source_groups(task, general)
    assert groups.names == (
        *("task: x", "task: y"),
        *(f"general: {path}" for path in paths),
    )
    assert groups.task.tolist() == [0, 1, 0]
    assert groups.general_ends.tolist() == [3, 8]
    alone = source_groups(task[:1], None)
    assert (alone.names, alone.general_ends.tolist()) == (("task",), [])


@pytest.mark.parametrize("kind", ["alf1", "alf2"])
def test_weights_settle_where_the_loss_is_least(kind: Literal["alf1", "alf2"]) -> None:
    losses = torch.tensor([0.25, 1.0, 4.0])
    learned = LearnedWeights(kind, GROUPS, CPU)
    optimizer = torch.optim.Adam([learned.log_variance], lr=learned.learning_rate)
    group, share = torch.arange(3), torch.ones(3)
    for _ in range(600):
        optimizer.zero_grad()
        loss = (losses * learned.factors(group)).sum() + learned.regularizer(group, share)
        loss.backward()
        optimizer.step()
    # ALF1: σ² = L. ALF2: L/σ² = σ²/(σ² + 1), a quadratic equation.
    variance = losses if kind == "alf1" else (losses + (losses**2 + 4 * losses).sqrt()) / 2
    found = torch.tensor(list(learned.record().values()))
    torch.testing.assert_close(found, 1 / variance, rtol=1e-3, atol=1e-3)
    assert list(learned.record()) == ["weight_task", "weight_general: a", "weight_general: b"]


def noisy(recipe: dict[str, Any], tmp_path: Path, write_jsonl: Callable[..., Path]) -> Any:
    """Return a recipe with a task of which half follows a rule and half is random."""
    shapes = ("ball", "box", "sheet")
    kinds = ("round", "square", "flat")
    random = np.random.default_rng(0).integers(0, 3, 24)
    rule = [
        {"prompt": f"item {n} is {kinds[n % 3]}", "completion": shapes[n % 3]} for n in range(24)
    ]
    noise = [{"prompt": "a thing", "completion": shapes[k]} for k in random]
    files = [
        str(write_jsonl(tmp_path / f"{name}.jsonl", rows))
        for name, rows in (("rule", rule), ("noise", noise))
    ]
    return recipe | {
        "method": "sft",
        "general": None,
        "task": recipe["task"] | {"train": files},
        "mixture": {"passes": 20},
        "training": recipe["training"] | {"learning_rate": 1e-2, "source_weights": "alf1"},
    }


def test_noise_comes_to_count_less(
    toy_recipe: dict[str, Any], tmp_path: Path, write_jsonl: Callable[..., Path]
) -> None:
    fit(noisy(toy_recipe, tmp_path, write_jsonl), tmp_path / "out", progress=False)
    log = (tmp_path / "out" / "training_log.jsonl").read_text().splitlines()
    first, last = json.loads(log[0]), json.loads(log[-1])
    assert first["weight_task: rule"] == pytest.approx(1, abs=0.06)
    assert last["weight_task: rule"] > 1.5 * last["weight_task: noise"]


def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(
    toy_recipe: dict[str, Any],
    tmp_path: Path,
    write_jsonl: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from telltune.training.trainer import MixtureTrainer

    recipe = noisy(toy_recipe, tmp_path, write_jsonl) | {"mixture": {"passes": 1}}
    recipe["training"]["save_steps"] = 5
    fit(recipe, tmp_path / "whole", progress=False)
    step = MixtureTrainer.training_step

    def stops(self: MixtureTrainer, *arguments: Any) -> torch.Tensor:
        if self.state.global_step == 7:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(MixtureTrainer, "training_step", stops)
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, tmp_path / "cut", progress=False)
    fit(recipe, tmp_path / "cut", progress=False)
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if k.startswith(("weight", "loss"))}
            for line in (tmp_path / name / "training_log.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "cut")
    ]
    assert logs[0] == logs[1]
    assert len({json.dumps(row) for row in logs[0]}) == len(logs[0])


def test_a_step_that_is_left_out_changes_no_weight(
    toy_recipe: dict[str, Any], tmp_path: Path, tiny_base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from telltune.training import trainer

    nll = trainer.token_nll

    def ill(model: Any, batch: Any, *given: Any) -> Any:
        found = nll(model, batch, *given)
        spoiled = "item 11 is" in tiny_base.tokenizer.decode(batch.input_ids.flatten())
        return found * float("nan") if spoiled else found

    monkeypatch.setattr(trainer, "token_nll", ill)
    toy_recipe["training"]["source_weights"] = "alf1"
    ends = []
    for steps in (1, 100):  # with 100, all steps before the ill one are repeated
        toy_recipe["training"]["save_steps"] = steps
        out = tmp_path / str(steps)
        fit(toy_recipe, out, progress=False)
        rows = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
        assert any("skipped" in row for row in rows)
        ends.append((rows[-1]["weight_task"], (out / "adapter_model.safetensors").read_bytes()))
    assert ends[0] == ends[1]


def test_each_entry_has_a_weight_even_if_names_or_paths_are_equal(
    toy_recipe: dict[str, Any], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        rows = [{"prompt": f"{folder} {n}", "completion": "x"} for n in range(6)]
        files.append(str(write_jsonl(tmp_path / folder / "g.jsonl", rows)))
    halves = [{"path": files[0], "rows": rows} for rows in ([0, 3], [3, 6])]
    toy_recipe["task"] = toy_recipe["task"] | {"train": files}
    toy_recipe["mixture"] = {"general_examples": 4, "passes": 1}
    toy_recipe["training"]["source_weights"] = "alf1"
    fit(toy_recipe | {"general": halves}, tmp_path / "out", progress=False)
    log = (tmp_path / "out" / "training_log.jsonl").read_text().splitlines()
    assert {key for key in json.loads(log[-1]) if key.startswith("weight")} == {
        *("weight_task: g", "weight_task: g (entry 2)"),
        *(f"weight_general: {files[0]}", f"weight_general: {files[0]} (entry 2)"),
    }


def test_general_data_made_or_chosen_in_the_run_are_one_source(
    write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"prompt": f"{n}", "completion": "x", "history": []} for n in range(9)]
    path = write_jsonl(tmp_path / "made.jsonl", rows)
    asked = tuple(DataSpec(path=path) for path in ("asked.jsonl", "more.jsonl"))
    chosen = tuple(Example(f"{n}", "x") for n in range(7))
    for sources in (asked[:1], asked):
        for data in (
            SampledData("made", sources, (path,), 7),
            ChosenData("chosen", sources, chosen),
        ):
            groups = source_groups([Example("q", "a")], data)
            assert groups.names == ("task", "general")
            assert groups.general_ends.tolist() == [7]
