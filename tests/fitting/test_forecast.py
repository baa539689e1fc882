"""The cost of a fit is estimated before it starts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import telltune
from telltune.data.task import load_general, load_task
from telltune.fitting import forecast as module
from telltune.fitting.build_plan import build_run_plan
from telltune.fitting.forecast import Forecast, estimated_memory_gib, forecast
from telltune.fitting.model_info import load_model_info
from telltune.methods.registry import get_method
from telltune.models.kernels.packing import pack
from telltune.recipe import TrainingSpec, recipe_from_dict
from telltune.training.callbacks import StepTime, Stopwatch
from telltune.training.speed import learn, recall, remember, training_shape
from telltune.training.steps import StepSampler

if TYPE_CHECKING:
    from pathlib import Path

    from telltune.fitting.run_plan import RunPlan
    from telltune.models import ModelShape


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an empty cache."""
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the model is loaded."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.setattr(module, "load_base_of", refuse)


def ready(values: dict[str, Any]) -> tuple[RunPlan, ModelShape]:
    recipe = recipe_from_dict(values)
    method, model = get_method(recipe.method), load_model_info(recipe.model)
    general = load_general(recipe) if method.uses_general else None
    return build_run_plan(method, load_task(recipe), general, model, recipe), model.shape


def forecast_of(values: dict[str, Any], *, measure: bool = False) -> Forecast:
    return forecast(*ready(values), measure=measure)


def know(values: dict[str, Any], *, source: Any = "fit", **seconds: float) -> None:
    recipe = recipe_from_dict(values)
    shape = training_shape(load_model_info(recipe.model).shape, recipe)
    remember(shape, source, packed=True, **seconds)


def seconds_of(values: dict[str, Any]) -> float:
    seconds = forecast_of(values).seconds
    assert seconds is not None
    return seconds


def test_computed_tokens_are_those_that_training_packs(toy_recipe: dict[str, Any]) -> None:
    toy_recipe["mixture"] = {"general_examples": 12, "passes": 1}
    toy_recipe["training"]["micro_batch_tokens"] = 256
    run_plan, model = ready(toy_recipe)
    assert run_plan.general is not None
    expected = 0
    for step in StepSampler(run_plan.mixture, run_plan.epochs):  # nine steps, all sampled
        rows = [(run_plan.task if is_task else run_plan.general)[index] for is_task, index in step]
        batches = pack(rows, 256, sources=[is_task for is_task, _ in step])
        expected += sum(batch.tokens for batch in batches)
    got = forecast(run_plan, model, measure=False).computed_tokens
    assert got == expected < run_plan.counts.trained_tokens


def test_sampled_steps_stand_for_a_long_run(
    toy_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_recipe["mixture"] = {"general_examples": 150, "passes": 5, "order": "task_first"}
    whole = forecast_of(toy_recipe).computed_tokens
    monkeypatch.setattr(module, "_LOOKED_AT", 12)
    assert forecast_of(toy_recipe).computed_tokens == pytest.approx(whole, rel=0.05)


@pytest.mark.usefixtures("no_model")
def test_without_a_record_or_leave_to_measure_the_time_is_unknown(
    toy_recipe: dict[str, Any],
) -> None:
    assert forecast_of(toy_recipe).seconds is None


@pytest.mark.usefixtures("no_model")
def test_what_is_remembered_is_used_and_no_model_loaded(toy_recipe: dict[str, Any]) -> None:
    know(toy_recipe, seconds_per_tflop=0.0, step_seconds=2.0, load_seconds=3.0, setup_seconds=4.0)
    # Nine steps of four: 24 task examples twice, and the few general ones of the ratio.
    steps = ready(toy_recipe)[0].counts.optimizer_steps
    assert forecast_of(toy_recipe, measure=True).seconds == pytest.approx(3 + 4 + 2 * steps)


def test_twice_the_passes_take_twice_the_time_besides_the_start(
    toy_recipe: dict[str, Any],
) -> None:
    toy_recipe["method"] = "sft"
    know(toy_recipe, seconds_per_tflop=1e5, step_seconds=0.01, setup_seconds=1.0)
    toy_recipe["mixture"] = {"passes": 3}
    once = seconds_of(toy_recipe)
    toy_recipe["mixture"] = {"passes": 6}
    assert seconds_of(toy_recipe) - 1 == pytest.approx(2 * (once - 1), rel=0.02)
    assert once > 1.1


def test_a_model_seen_for_the_first_time_is_measured_once(
    toy_recipe: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = forecast_of(toy_recipe, measure=True)
    assert first.seconds is not None
    assert "Measuring how fast this machine trains" in caplog.text
    monkeypatch.setattr(module, "load_base_of", lambda *_, **__: pytest.fail("loaded again"))
    assert forecast_of(toy_recipe, measure=True) == first


def test_rows_to_measure_are_short_on_a_slow_machine(toy_recipe: dict[str, Any]) -> None:
    from telltune.training.calibration import _Rows

    run_plan, _ = ready(toy_recipe)
    slow, quick = (
        _Rows(run_plan, 512, lambda row, each=each: each * len(row)).rows for each in (10.0, 0.001)
    )
    assert len(slow) == len(quick)
    assert 1 <= max(map(len, slow)) < max(map(len, quick))


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("lora", {"rank": 8}),
        ("lora", {"dropout": 0.1}),
        ("lora", {"target_modules": ["q_proj"]}),
        ("training", {"micro_batch_tokens": 128}),
        ("training", {"gradient_checkpointing": True}),
        ("training", {"full_parameters": True}),
        ("training", {"precision": "bf16"}),
    ],
)
def test_the_speed_of_another_shape_is_unknown(
    toy_recipe: dict[str, Any], part: str, change: dict[str, Any]
) -> None:
    know(toy_recipe, seconds_per_tflop=1.0)
    assert forecast_of(toy_recipe).seconds is not None
    toy_recipe[part] |= change
    assert forecast_of(toy_recipe).seconds is None


@pytest.mark.parametrize(
    "change",
    [
        {"gradient_checkpointing": True, "micro_batch_tokens": 128},
        {"full_parameters": True},
    ],
)
def test_another_shape_is_measured_anew(toy_recipe: dict[str, Any], change: dict[str, Any]) -> None:
    know(toy_recipe, seconds_per_tflop=1e9)
    toy_recipe["training"] |= change
    assert 0 < (forecast_of(toy_recipe, measure=True).seconds or 0) < 1e5


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("training", {"learning_rate": 1e-5, "batch_size": 8, "loss_average": "source"}),
        ("mixture", {"passes": 1}),
        ("task", {"max_examples": 5}),
    ],
)
def test_what_changes_no_speed_is_the_same_shape(
    toy_recipe: dict[str, Any], part: str, change: dict[str, Any]
) -> None:
    know(toy_recipe, seconds_per_tflop=1.0)
    toy_recipe[part] |= change
    assert forecast_of(toy_recipe).seconds is not None


def test_one_time_work_of_the_first_step_is_part_of_the_start(toy_recipe: dict[str, Any]) -> None:
    run_plan, model = ready(toy_recipe)
    watch = Stopwatch({})
    watch.steps = {0: StepTime(30.0, 30.5), 1: StepTime(1.0, 1.5), 2: StepTime(1.0, 2.5)}
    steps = [*enumerate(StepSampler(run_plan.mixture, run_plan.epochs))]
    facts = {"data": run_plan, "model": model, "recipe": run_plan.recipe, "packed": True}
    learn(watch, "rehearsal", steps, **facts, load_seconds=4.0, setup_seconds=2.0)  # type: ignore[arg-type]
    speed = recall(training_shape(model, run_plan.recipe))
    assert speed is not None
    assert speed.start_seconds == pytest.approx(4.0 + 2.0 + (30.5 - 2.5))


@pytest.mark.usefixtures("no_model")
def test_a_fit_leaves_what_the_next_plan_tells(toy_recipe: dict[str, Any], tmp_path: Path) -> None:
    know(toy_recipe, source="rehearsal", seconds_per_tflop=1e9, step_seconds=1e3)
    fitted = telltune.fit(toy_recipe, tmp_path / "run", progress=False)
    [record] = (tmp_path / "cache" / "speed").glob("*.json")
    learnt = json.loads(record.read_text())["fit"]
    assert set(learnt) == {"seconds_per_tflop", "step_seconds", "setup_seconds", "load_seconds"}
    assert all(len(values) == 1 and values[0] > 0 for values in learnt.values())
    # Not the rehearsed time. A fit of a tenth of a second is mostly start, which counts twice.
    assert 0.2 * fitted.record["seconds"] < seconds_of(toy_recipe) < 60


def test_a_fit_stops_at_no_bad_or_unwritable_record(
    toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    toy_recipe["method"] = "sft"
    know(toy_recipe, seconds_per_tflop=1.0)
    [record] = (tmp_path / "cache" / "speed").glob("*.json")
    record.write_text("{")
    assert forecast_of(toy_recipe).seconds is None
    record.unlink()
    record.mkdir()
    telltune.fit(toy_recipe, tmp_path / "run", progress=False)


def test_fits_count_before_a_rehearsal_and_the_quickest_of_the_last_three(
    toy_recipe: dict[str, Any],
) -> None:
    recipe = recipe_from_dict(toy_recipe)
    shape = training_shape(load_model_info(recipe.model).shape, recipe)
    remember(shape, "rehearsal", packed=False, seconds_per_tflop=0.5, load_seconds=7.0)
    speed = recall(shape)
    assert speed is not None
    assert (speed.seconds_per_tflop, speed.start_seconds, speed.packed) == (0.5, 7.0, False)
    for seconds in (1.0, 5.0, 4.0, 9.0):
        remember(shape, "fit", seconds_per_tflop=seconds)
    speed = recall(shape)
    assert speed is not None
    assert (speed.seconds_per_tflop, speed.start_seconds, speed.packed) == (4.0, 7.0, False)


def test_memory_grows_with_rows_and_with_what_is_trained(toy_recipe: dict[str, Any]) -> None:
    model = load_model_info(recipe_from_dict(toy_recipe).model).shape

    def memory(tokens: int = 64, responses: int = 0, **spec: Any) -> float:
        settings = TrainingSpec(precision="fp32", **spec)
        return estimated_memory_gib(model, settings, row_tokens=tokens, row_responses=responses)

    many = 2**20
    assert memory(many) > memory(1024)
    assert memory(many, many) > memory(many)
    assert memory(many, gradient_checkpointing=True) < memory(many)
    assert memory(full_parameters=True) > memory()


def test_memory_is_that_of_the_rows_there_are(
    toy_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_recipe["method"] = "sft"
    short = forecast_of(toy_recipe).memory_gib
    toy_recipe["training"]["micro_batch_tokens"] = 2**20
    assert forecast_of(toy_recipe).memory_gib == short
    toy_recipe["training"]["batch_size"] = 24
    assert forecast_of(toy_recipe).memory_gib > short
