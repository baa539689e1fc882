"""The training loop has the mixture's examples, exact gradients, a full log, exact resuming."""

from __future__ import annotations

import hashlib
import json
from threading import Event
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import torch

from telltune.data.task import load_general, load_task
from telltune.fitting.adapter_folder import load_predictor
from telltune.fitting.build_plan import build_run_plan
from telltune.fitting.model_info import ModelInfo
from telltune.fitting.protocol import Settings
from telltune.inference.packed_engine import PackedGenerator
from telltune.methods.registry import get_method
from telltune.models import LoadedModel, load_base
from telltune.recipe import Recipe, recipe_from_dict
from telltune.training import run as training_run
from telltune.training.adapter import add_lora
from telltune.training.checkpoints import Checkpoints
from telltune.training.run import training_arguments
from telltune.training.steps import Step, StepSampler
from telltune.training.trainer import MixtureTrainer

if TYPE_CHECKING:
    from pathlib import Path

    from telltune.fitting.predictor import Predictor
    from telltune.fitting.run_plan import RunPlan

pytestmark = pytest.mark.usefixtures("small_batches")


class Stopped(Exception):  # noqa: N818 - as when somebody presses Ctrl-C
    """Error that ends a run before its last step."""


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Return a list that gets the step that each optimizer step computes."""
    seen: list[Step] = []
    training_step = MixtureTrainer.training_step

    def spy(self: MixtureTrainer, model: Any, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
        seen.append(inputs["step"])
        return training_step(self, model, inputs, *rest)

    monkeypatch.setattr(MixtureTrainer, "training_step", spy)
    return seen


@pytest.fixture
def short(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe of six steps with a checkpoint every two steps."""
    toy_recipe["task"]["max_examples"] = 8
    toy_recipe["mixture"] = {"general_examples": 8, "passes": 2}
    toy_recipe["training"]["save_steps"] = 2
    return toy_recipe


def run_plan(recipe: Recipe, base: LoadedModel) -> RunPlan:
    method = get_method(recipe.method)
    return build_run_plan(
        method,
        load_task(recipe),
        load_general(recipe) if method.uses_general else None,
        ModelInfo.of(base.model.config, base.tokenizer),
        recipe,
    )


def run(values: dict[str, Any], out: Path | None, base: LoadedModel | None = None) -> Predictor:
    recipe = recipe_from_dict(values)
    base = base or load_base(recipe.model, "fp32")
    general = load_general(recipe)
    return get_method(recipe.method).run(
        load_task(recipe), general, base, Settings(recipe, out, progress=False)
    )


def read_log(out: Path) -> list[dict[str, Any]]:
    lines = (out / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def fingerprint(model: Any) -> dict[str, str]:
    return {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in model.state_dict().items()
    }


def test_the_loss_falls(toy_recipe: dict[str, Any], tmp_path: Path) -> None:
    toy_recipe |= {"method": "sft", "mixture": {"passes": 6}}
    run(toy_recipe, tmp_path / "out")
    losses = [row["loss_task"] for row in read_log(tmp_path / "out")]
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:2])


def test_each_step_sees_the_mixtures_examples(
    short: dict[str, Any], tiny_base: LoadedModel, steps: list[Step]
) -> None:
    ready = run_plan(recipe_from_dict(short), tiny_base)
    run(short, None, tiny_base)
    batches = list(ready.mixture.batches(0))
    assert len(steps) == len(batches) == 6
    assert ready.general is not None
    for step, (is_task, index) in zip(steps, batches, strict=True):
        assert step.is_task.tolist() == is_task.tolist()
        for row, from_task, i in zip(step.rows, is_task, index, strict=True):
            ids, prompt_length = (ready.task if from_task else ready.general)[int(i)]
            assert row[0].tolist() == ids.tolist()
            assert row[1] == prompt_length


def test_passes_without_general_data_are_epochs(
    short: dict[str, Any], tiny_base: LoadedModel, steps: list[Step]
) -> None:
    short |= {"method": "sft", "mixture": {"passes": 3}}
    run(short, None, tiny_base)
    examples = [tuple(row[0].tolist()) for step in steps for row in step.rows]
    epochs = [examples[start : start + 8] for start in (0, 8, 16)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_log_has_one_whole_line_a_step(
    short: dict[str, Any], tmp_path: Path, steps: list[Step]
) -> None:
    run(short, tmp_path / "out")
    rows = read_log(tmp_path / "out")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row, step in zip(rows, steps, strict=True):
        assert row["tokens"] == sum(len(ids) for ids, _ in step.rows)
        assert row["seconds"] > 0
        assert row["grad_norm"] > 0
        kinds = step.is_task.tolist()
        assert ("loss_task" in row, "loss_general" in row) == (any(kinds), not all(kinds))
        assert ("median_task" in row, "median_general" in row) == (any(kinds), not all(kinds))
        # With the average over tokens, the step's loss is the token-weighted mean of its sources.
        counts = {True: 0, False: 0}
        for (ids, prompt_length), kind in zip(step.rows, kinds, strict=True):
            counts[kind] += len(ids) - prompt_length
        total = counts[True] * row.get("loss_task", 0) + counts[False] * row.get("loss_general", 0)
        assert row["loss"] == pytest.approx(total / sum(counts.values()), abs=1e-3)


def one_step(base: LoadedModel, recipe: Recipe, out: Path, budget: int) -> tuple[Any, Step, float]:
    """Return the model with the gradients of a mixture's first step, the step and its loss."""
    ready = run_plan(recipe, base)
    model = add_lora(base, recipe.lora, 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start, so the other matrix would have no gradient
            torch.nn.init.normal_(parameter, std=0.1)
    sampler = StepSampler(ready.mixture, ready.epochs)
    trainer = MixtureTrainer(
        model,
        data=ready,
        sampler=sampler,
        settings=recipe.training.model_copy(update={"micro_batch_tokens": budget}),
        args=training_arguments(recipe, out, 6),
        callbacks=[],
        measured={},
    )
    [inputs] = [batch for _, batch in zip(range(1), trainer.get_train_dataloader(), strict=False)]
    loss = trainer.training_step(model, inputs)
    return model, inputs["step"], float(loss)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys() != set()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("budget", [1, 150, 4096])
def test_a_steps_gradient_is_the_plain_one_whatever_the_packing(
    short: dict[str, Any], tiny_base: LoadedModel, tmp_path: Path, budget: int
) -> None:
    recipe = recipe_from_dict(short)
    model, step, loss = one_step(tiny_base, recipe, tmp_path, budget)
    found = gradients(model)
    assert found
    assert all("lora_" in name for name in found)
    model.zero_grad()
    assert 0 < int(step.is_task.sum()) < len(step.rows)
    tokens = sum(len(ids) - prompt_length for ids, prompt_length in step.rows)
    plain = 0.0
    for ids, prompt_length in step.rows:
        input_ids = torch.tensor(ids, dtype=torch.int64)[None]
        labels = input_ids.clone()
        labels[:, :prompt_length] = -100
        part = model(input_ids=input_ids, labels=labels).loss * (len(ids) - prompt_length) / tokens
        part.backward()
        plain += part.item()
    assert loss == pytest.approx(plain, rel=1e-5)
    assert_same(found, gradients(model))


def test_task_weight_weighs(short: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    short["training"] |= {"loss_average": "example", "task_weight": 3.0}
    recipe = recipe_from_dict(short)
    model, step, loss = one_step(load_base(recipe.model, "fp32"), recipe, tmp_path, 512)
    shares = [3.0 if is_task else 1.0 for is_task in step.is_task.tolist()]
    plain = 0.0
    for (ids, prompt_length), share in zip(step.rows, shares, strict=True):
        input_ids = torch.tensor(ids, dtype=torch.int64)[None]
        labels = input_ids.clone()
        labels[:, :prompt_length] = -100
        plain += share / sum(shares) * model(input_ids=input_ids, labels=labels).loss.item()
    assert loss == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("method", ["tell", "sft"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    short: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    short["lora"]["dropout"] = 0.05
    short |= {"method": method}
    if method == "sft":
        short["mixture"] = {"passes": 3}
    run(short, tmp_path / "whole")
    training_step, persist, went_on = MixtureTrainer.training_step, Checkpoints._persist, Event()

    def stops(self: MixtureTrainer, *arguments: Any) -> torch.Tensor:
        if self.state.global_step == 5:
            went_on.set()
            raise Stopped
        return training_step(self, *arguments)

    def waits(self: Checkpoints, filled: Path, target: Path, *rest: Any) -> None:
        # The disk is so slow that the weights change before they are written.
        assert target.name != "checkpoint-4" or went_on.wait(30)
        persist(self, filled, target, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(MixtureTrainer, "training_step", stops)
        patched.setattr(Checkpoints, "_persist", waits)
        with pytest.raises(Stopped):
            run(short, tmp_path / "resumed")
    assert not (tmp_path / "resumed" / "tell.json").exists()
    assert len(read_log(tmp_path / "resumed")) == 5
    run(short, tmp_path / "resumed")
    assert [row["step"] for row in read_log(tmp_path / "resumed")] == [1, 2, 3, 4, 5, 6]
    whole, resumed = (
        (tmp_path / name / "adapter_model.safetensors").read_bytes()
        for name in ("whole", "resumed")
    )
    assert whole == resumed
    for a, b in zip(read_log(tmp_path / "whole"), read_log(tmp_path / "resumed"), strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}


@pytest.mark.parametrize("full", [False, True])
def test_a_thread_writes_what_the_trainer_does_where_memory_has_no_room_for_a_copy(
    short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, full: bool
) -> None:
    short["training"]["full_parameters"] = full
    monkeypatch.setattr(training_run.Checkpoints, "latest", lambda _: None)
    monkeypatch.setattr(training_run, "CHECKPOINTS", "kept")
    run(short, tmp_path / "thread")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    monkeypatch.delattr(Checkpoints, "later")
    run(short, tmp_path / "trainer")
    wrote, would = (tmp_path / name / "kept" / "checkpoint-6" for name in ("thread", "trainer"))
    files = {path.name for path in would.iterdir()}
    assert {path.name for path in wrote.iterdir()} == files
    # PEFT's form for a model card takes longer to fill in than the weights to write.
    assert "README.md" not in files
    for name in files - {"manifest.json", "trainer_state.json", "training_args.bin"}:
        assert (wrote / name).read_bytes() == (would / name).read_bytes(), name


def test_the_base_stays_as_it_was(short: dict[str, Any], tiny_base: LoadedModel) -> None:
    before = fingerprint(tiny_base.model)
    predictor = run(short, None, tiny_base)
    trained = {n: p for n, p in predictor.model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert any(float(p.detach().abs().max()) > 0 for n, p in trained.items() if "lora_B" in n)
    for name, parameter in predictor.model.named_parameters():
        assert "lora_" in name or parameter.grad is None
    wrapped = fingerprint(predictor.model.get_base_model())
    bases = {n.replace("base_layer.", ""): h for n, h in wrapped.items() if "lora_" not in n}
    assert bases == before
    first = {name: parameter.detach().clone() for name, parameter in trained.items()}
    predictor.release()
    assert fingerprint(tiny_base.model) == before
    # The next method finds it unchanged too.
    again = dict(run(short, None, tiny_base).model.named_parameters())
    assert all(torch.equal(parameter, again[name]) for name, parameter in first.items())


def test_neither_gradient_checkpointing_nor_kernels_change_a_number(
    short: dict[str, Any], tmp_path: Path
) -> None:
    logs = []
    for how in ({}, {"gradient_checkpointing": True}, {"kernels": "off"}):
        run(short | {"training": short["training"] | how}, tmp_path / f"{how}")
        logs.append(read_log(tmp_path / f"{how}"))
    for plain, *others in zip(*logs, strict=True):
        for other in others:
            assert other["loss"] == pytest.approx(plain["loss"], rel=1e-4)
            assert other["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-3)
    # Rows of one example have no common prefix, so more tokens are computed.
    plain_tokens, _, without_kernels = (sum(s["computed_tokens"] for s in log) for log in logs)
    assert without_kernels > plain_tokens


def test_warm_up_is_at_most_a_tenth_of_a_run(short: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_from_dict(short)
    for steps_, warm_up in ((6, 0), (100, 10), (10_000, 25)):
        args = training_arguments(recipe, tmp_path, steps_)
        assert args.warmup_steps == warm_up


def test_what_was_trained_in_bf16_answers_as_loaded_anew(
    short: dict[str, Any], tmp_path: Path
) -> None:
    short["training"]["precision"] = "bf16"
    base = load_base(recipe_from_dict(short).model, "bf16")
    predictor = run(short, tmp_path / "run", base)
    autocast: list[bool] = []
    predictor.model.get_output_embeddings().register_forward_pre_hook(
        lambda *_: autocast.append(torch.is_autocast_enabled("cpu"))
    )
    answers = predictor.predict(load_task(recipe_from_dict(short)).train)
    assert isinstance(predictor._generator, PackedGenerator)
    assert autocast
    assert not any(autocast)
    anew = load_predictor(tmp_path / "run", precision="bf16")
    assert answers == anew.predict(load_task(recipe_from_dict(short)).train)
