"""Early stopping keeps the weights that are best on dev data, also after interruptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import telltune
from telltune.data.encoded import EncodedSet
from telltune.data.task import load_split
from telltune.errors import RecipeError
from telltune.fitting.adapter_folder import load_predictor, read_tell
from telltune.fitting.build_plan import plan_looks
from telltune.recipe import as_recipe
from telltune.training.early_stopping import PATIENCE, EarlyStopping
from telltune.training.log import read_log
from telltune.verification import verify

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("small_batches")


class Stopped(Exception):  # noqa: N818 - as when somebody presses Ctrl-C
    """Error that ends a run before its last step."""


@pytest.fixture
def long(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe of some fifty steps that gets worse on dev data after a while."""
    toy_recipe["mixture"] = {"leverage_ratio": 0.5, "passes": 8}
    toy_recipe["training"] |= {
        "learning_rate": 0.05,
        "schedule": "constant",
        "early_stopping": True,
        "save_steps": 5,
    }
    return toy_recipe


def fit(recipe: dict[str, Any], out: Path) -> dict[str, Any]:
    return telltune.fit(recipe, out, progress=False).record


@pytest.fixture(scope="module")
def fitted_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fitted") / "out"


@pytest.fixture
def whole(fitted_once: Path, long: dict[str, Any]) -> Path:
    """Return the folder of an uninterrupted run; it runs once for all tests."""
    if not fitted_once.exists():
        fit(long, fitted_once)
    return fitted_once


def test_the_best_look_is_what_is_saved_and_verified(long: dict[str, Any], whole: Path):
    record = read_tell(whole)
    found = record["early_stopping"]
    looks = {look["step"]: look for look in found["looks"]}
    kept = looks[found["kept_step"]]
    assert kept["score"] == max(look["score"] for look in looks.values())
    predictor = load_predictor(whole, precision="fp32")
    nll, tokens = predictor.nll(load_split(as_recipe(long), "dev"))
    assert float((nll / tokens).mean()) == pytest.approx(kept["loss"], rel=1e-4)
    assert verify(whole).held is True
    card = " ".join((whole / "README.md").read_text().split())
    assert f"the headline metric was {kept['score']:.1f} and the loss was" in card
    assert f"those of step {kept['step']}, the best of {len(looks)} evaluations" in card


def test_a_run_that_no_longer_improves_stops(long: dict[str, Any], whole: Path):
    record = read_tell(whole)
    steps = [look["step"] for look in record["early_stopping"]["looks"]]
    rows = read_log(whole / "training_log.jsonl")
    planned, counts = telltune.plan(long, measure=False), record["counts"]
    assert len(rows) == steps[-1] == counts["optimizer_steps"] < planned["optimizer_steps"]
    assert sum(row["tokens"] for row in rows) == counts["trained_tokens"]
    assert counts["general_tokens"] < planned["general_tokens"]
    assert counts["passes"] < planned["passes"]
    passes = f"{counts['task_tokens']:,} tokens, {counts['passes']} passes"
    assert passes in (whole / "README.md").read_text()
    assert steps.index(record["early_stopping"]["kept_step"]) == len(steps) - 1 - PATIENCE
    assert [row["step"] for row in rows if "dev_loss" in row] == steps


def test_looks_and_the_last_answers_do_not_need_the_engine_of_the_recipe(
    long: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def start(_: Any) -> Any:
        raise AssertionError("vLLM was started")

    monkeypatch.setattr("telltune.inference.engine.VllmGenerator", start)
    record = fit(long | {"evaluation": {"engine": "vllm"}}, tmp_path / "out")
    assert all(look["score"] is not None for look in record["early_stopping"]["looks"])


def test_a_resumed_run_keeps_the_best_look_from_before(
    long: dict[str, Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    record = read_tell(whole)
    kept = record["early_stopping"]["kept_step"]
    on_step_end = EarlyStopping.on_step_end

    def dies(self: EarlyStopping, args: Any, state: Any, control: Any, **found: Any) -> None:
        on_step_end(self, args, state, control, **found)
        if state.global_step == kept + 6:
            raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(EarlyStopping, "on_step_end", dies)
        with pytest.raises(Stopped):
            fit(long, tmp_path / "cut")
    again = fit(long, tmp_path / "cut")
    assert again["early_stopping"] == record["early_stopping"]
    weights = [run / "adapter_model.safetensors" for run in (whole, tmp_path / "cut")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_killed_after_its_last_look_makes_no_further_step(
    long: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def dies(*_: Any) -> None:
        raise Stopped

    long["training"]["save_steps"] = 1
    with monkeypatch.context() as patched:
        patched.setattr(EarlyStopping, "restore", dies)
        with pytest.raises(Stopped):
            fit(long, tmp_path / "out")
    record = fit(long, tmp_path / "out")
    rows = read_log(tmp_path / "out" / "training_log.jsonl")
    last = record["early_stopping"]["looks"][-1]["step"]
    assert [row["step"] for row in rows] == [*range(1, last + 1)]
    assert record["counts"]["optimizer_steps"] == last


def test_dev_data_are_looked_at_only_where_the_recipe_names_dev_data(toy_recipe: dict[str, Any]):
    del toy_recipe["training"]["early_stopping"]
    assert telltune.plan(toy_recipe, measure=False)["dev_examples"] == 12
    del toy_recipe["task"]["dev"]
    assert telltune.plan(toy_recipe, measure=False)["dev_examples"] == 0
    toy_recipe["task"]["dev_share"] = 0.25
    assert telltune.plan(toy_recipe, measure=False)["dev_examples"] == 6


def test_stopping_early_without_dev_data_is_refused(toy_recipe: dict[str, Any]):
    del toy_recipe["task"]["dev"]
    toy_recipe["training"]["early_stopping"] = True
    with pytest.raises(RecipeError, match=r"needs dev data; set `task\.dev`"):
        telltune.plan(toy_recipe, measure=False)


def encoded(examples: int, prompt: int, response: int) -> EncodedSet:
    length = prompt + response
    return EncodedSet(
        np.zeros(examples * length, np.int32),
        np.arange(examples + 1, dtype=np.int64) * length,
        np.full(examples, prompt, np.int32),
    )


@pytest.mark.parametrize(
    ("trained_tokens", "answers", "looks"),
    [(1_000_000, True, 10), (15_000, True, 4), (10_000, False, 5), (2_000, False, 4)],
)
def test_looks_take_a_quarter_of_training_or_are_four(
    trained_tokens: int, answers: bool, looks: int
):
    plan = plan_looks(encoded(30, 40, 5), trained_tokens=trained_tokens, answer_tokens=8)
    assert (plan.answers, plan.looks) == (answers, looks)
    assert plan.work <= 0.25 or plan.looks == 4


def test_long_answers_are_not_written_along_the_run():
    plan = plan_looks(encoded(30, 40, 5), trained_tokens=30_000, answer_tokens=400)
    assert not plan.answers
