"""Cells that differ in how they answer share a training run; all others train."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from telltune.storage import cache_folder, write_json
from telltune.study import worker
from telltune.study.compare import compare
from telltune.study.runner import run_cells
from telltune.study.spec import ForgettingSpec, StudySpec, cells_of
from telltune.training import shared

if TYPE_CHECKING:
    from pathlib import Path

    from telltune.study.results import ResultRow

NONE = ForgettingSpec(examples=0, prompts=0)
FEW = ForgettingSpec(examples=4, prompts=2)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how often each kind of forgetting was measured."""
    counts: Counter[str] = Counter()

    def counting(name: str) -> None:
        real = getattr(worker, name)

        def measure(*arguments: Any) -> Any:
            counts[name] += 1
            return real(*arguments)

        monkeypatch.setattr(worker, name, measure)

    counting("measure_forgetting")
    counting("measure_drift")
    return counts


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by the title of each training."""
    real, titles = shared.train, []

    def train(base: Any, recipe: Any, data: Any, options: Any) -> Any:
        titles.append(options.description)
        return real(base, recipe, data, options)

    monkeypatch.setattr(shared, "train", train)
    return titles


def rows_of(
    recipe: dict[str, Any],
    out: Path,
    *methods: Any,
    forgetting: ForgettingSpec = NONE,
    **keys: Any,
) -> list[ResultRow]:
    study = {"recipe": recipe, "methods": list(methods), "sizes": [300], **keys}
    return run_cells(cells_of(StudySpec.model_validate(study)), forgetting, out, progress=False)


def told(row: ResultRow) -> dict[str, Any]:
    return {name: value for name, value in vars(row).items() if name != "seconds"}


def test_a_product_takes_over_the_training_and_its_row_is_as_if_it_had_not(
    toy_recipe: dict[str, Any], tmp_path: Path, trained: list[str], measured: Counter[str]
) -> None:
    methods = ("sft", "tell", "sft_product", "tell_product")
    rows = rows_of(toy_recipe, tmp_path / "all", *methods, forgetting=FEW)
    assert trained == ["SFT", "TELL"]
    # Each adapter is measured once, and so is the base, whose answers are known.
    assert measured == {"measure_forgetting": 3, "measure_drift": 2}
    assert [row.name for row in rows] == list(methods)
    _, tell, _, product = rows
    assert product.curve == tell.curve != {}
    # Its seconds are those of the training that it would need alone, and its classifier's.
    assert product.seconds["training"] > tell.seconds["training"] > 0
    assert min(product.seconds.values()) >= 0
    [alone] = rows_of(toy_recipe, tmp_path / "alone", "tell_product", forgetting=FEW)
    assert trained == ["SFT", "TELL", "TELL, product of experts"]
    assert told(alone) == told(product)


@pytest.mark.parametrize(
    ("method", "folder", "keys"),
    [
        ("tell_self_sampled", "self_sampled", {}),
        ("tell", "nearness", {"general_choice": {"by": "gradients", "candidates": 20}}),
        ("sft_pseudo_label", "teacher", {"pseudo_label": {"by": "model", "examples": 4}}),
    ],
)
def test_what_the_cache_keeps_counts_as_training_time_and_never_below_zero(
    toy_recipe: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    folder: str,
    keys: dict[str, Any],
) -> None:
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "cache"))
    recipe = toy_recipe | keys
    if "pseudo_label" in keys:
        recipe["task"]["unlabeled"] = "rest"
    [first] = rows_of(recipe, tmp_path / "first", method)
    assert first.status == "done", first.reason
    files = list((cache_folder() / folder).rglob("*.seconds"))
    assert files
    for file in files:
        write_json(file, 1000)
    [again] = rows_of(recipe, tmp_path / "again", method)
    assert again.seconds["training"] == pytest.approx(1000 * len(files), abs=100)
    assert 0 <= again.seconds["other"] < 100


@pytest.mark.usefixtures("small_batches")
def test_other_inputs_train_anew(
    toy_recipe: dict[str, Any], tmp_path: Path, trained: list[str]
) -> None:
    toy_recipe["mixture"]["passes"] = 1
    slower = {"method": "sft", "name": "slower", "set": {"training.learning_rate": 1e-3}}
    dropped = {"method": "sft", "name": "dropped", "set": {"lora.dropout": 0.1}}
    rows = rows_of(toy_recipe, tmp_path, "sft", slower, dropped, "sft_anchor", seeds=[0, 1])
    assert len(trained) == len(rows) == 8
    assert len({str(row.curve) for row in rows}) == 8


def test_with_dev_items_the_answers_choose_the_weights_so_each_trains(
    toy_recipe: dict[str, Any], tmp_path: Path, trained: list[str]
) -> None:
    toy_recipe["training"]["early_stopping"] = True
    rows_of(toy_recipe, tmp_path, "sft", "sft_product")
    assert len(trained) == 2


def test_a_comparison_keeps_an_adapter_of_each(
    toy_recipe: dict[str, Any], tmp_path: Path, trained: list[str]
) -> None:
    out = tmp_path / "out"
    rows = compare(toy_recipe, ["sft", "tell", "sft_product"], out=out, progress=False)
    assert [row.method for row in rows] == ["sft", "sft_product", "tell"]
    assert trained == ["SFT", "TELL"]
    one, other = (out / name for name in ("sft", "sft_product"))
    for name in ("adapter_model.safetensors", "training_log.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert (other / "classifier.safetensors").exists()
