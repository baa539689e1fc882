"""Examples made by levers join the training examples, and are counted separately."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

import telltune
from telltune.data.task import load_task
from telltune.errors import RecipeError
from telltune.fitting import teacher
from telltune.fitting.pre_training import PreTraining, describe_pre_training
from telltune.fitting.protocol import Settings
from telltune.levers.protocol import Yield
from telltune.levers.registry import PluginLever
from telltune.methods.registry import get_method
from telltune.recipe import as_recipe, recipe_from_dict
from telltune.recipe.lever_sections import LEVER_SECTIONS

if TYPE_CHECKING:
    from telltune.data.task import TaskData
    from telltune.levers.protocol import Resources, UseAs

SHAPES = {"round": "ball", "square": "box", "flat": "sheet"}


@pytest.fixture
def recipe(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe with twelve labeled examples, two passes, and the other inputs unlabeled."""
    task = toy_recipe["task"] | {"max_examples": 12, "unlabeled": "rest"}
    return toy_recipe | {"task": task, "pseudo_label": {"by": "tfidf", "examples": 6}}


def laid(recipe: dict[str, Any], base: Any, method: str = "sft") -> PreTraining:
    from telltune.data.general import GeneralData

    read = as_recipe(recipe)
    general = None
    if get_method(method).uses_general:
        assert read.general is not None
        general = GeneralData("toy", tuple(read.general.sources))
    settings = Settings(read, progress=False)
    found = PreTraining(get_method(method), base, settings, load_task(read), general)
    found.run()
    return found


def test_made_examples_come_once_and_labeled_ones_in_every_pass(
    recipe: dict[str, Any], tiny_base: Any
) -> None:
    ground = laid(recipe, tiny_base)
    labeled = load_task(as_recipe(recipe)).train
    assert ground.task.train[:24] == labeled * 2
    made = ground.task.train[24:]
    assert len(made) == 6
    assert not {e.prompt for e in made} & {e.prompt for e in labeled}
    assert all(SHAPES[e.prompt.split()[-1]] == e.completion for e in made)
    assert ground.recipe.mixture.passes == 1
    assert ground.confidence is not None
    assert ground.confidence.scale == "output"
    assert np.array_equal(ground.confidence.values[:24], np.ones(24))
    assert ground.confidence.values[24:].tolist() == [e.confidence for e in made]


def test_inputs_that_are_too_long_are_left_out_and_counted(
    recipe: dict[str, Any], tiny_base: Any, write_jsonl: Any, tmp_path: Path
) -> None:
    long = "item 9 is very " + "very " * 300 + "round"
    rows = [{"prompt": f"item {n} is {kind}"} for n in (7, 77) for kind in SHAPES]
    path = write_jsonl(tmp_path / "more.jsonl", [{"prompt": long}, *rows])
    task = recipe["task"] | {"unlabeled": str(path)}
    (got,) = laid(recipe | {"task": task}, tiny_base).yields
    assert got.refused["longer than an example may be"] == 1
    assert got.asked == sum(got.refused.values()) + len(got.examples)
    assert all(len(example.prompt) < 100 for example in got.examples)


def test_where_nothing_is_made_the_run_is_as_without_the_lever(
    recipe: dict[str, Any], tiny_base: Any, write_jsonl: Any, tmp_path: Path
) -> None:
    rows = [{"prompt": f"item {n}", "completion": "abc"[n * n % 7 % 3]} for n in range(12)]
    path = str(write_jsonl(tmp_path / "noise.jsonl", rows))
    more = str(write_jsonl(tmp_path / "more.jsonl", [{"prompt": "item 99"}]))
    ground = laid(recipe | {"task": {"train": path, "unlabeled": more}}, tiny_base)
    (got,) = ground.yields
    assert not got.examples
    assert len(ground.task.train) == 12
    assert ground.recipe.mixture.passes == 2
    assert ground.confidence is None


def test_labeled_and_unlabeled_data_are_counted_apart(
    recipe: dict[str, Any], tiny_base: Any
) -> None:
    counts = laid(recipe, tiny_base).counts
    whole = load_task(as_recipe(recipe | {"task": recipe["task"] | {"max_examples": None}}))
    without = {key: value for key, value in recipe.items() if key != "pseudo_label"}
    assert laid(without, tiny_base).counts == {}
    assert counts["task_examples"] == 12
    assert counts["unlabeled_examples"] == len({e.prompt for e in whole.train}) - 12
    assert counts["unlabeled_tokens"] > counts["unlabeled_examples"]


def test_general_data_stay_as_many(recipe: dict[str, Any], tiny_base: Any) -> None:
    with_lever = laid(recipe, tiny_base, "tell").recipe.mixture.general_examples
    without = {key: value for key, value in recipe.items() if key != "pseudo_label"}
    plan = telltune.plan(without | {"method": "tell"}, measure=False)
    assert with_lever == plan["general_examples"] > 0


def test_what_is_repeated_counts_once(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe |= {"method": "tell", "mixture": {"leverage_ratio": 1, "passes": 2}}
    without = {key: value for key, value in recipe.items() if key != "pseudo_label"}
    labeled = telltune.plan(without, measure=False)
    record = telltune.fit(recipe, tmp_path / "run", progress=False).record
    counts = record["counts"]
    assert counts["task_examples"] == 12 + 6
    assert labeled["task_tokens"] < counts["task_tokens"] < 2 * labeled["task_tokens"]
    assert counts["passes"] == 1.67  # 12 examples twice and 6 once
    assert counts["general_tokens"] == labeled["general_tokens"]
    ratio = counts["general_tokens"] / counts["task_tokens"]
    assert counts["leverage_ratio"] == pytest.approx(ratio, abs=5e-4)
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"12 labeled examples ({labeled['task_tokens']} tokens) and 6 made ones" in card
    assert f"leverage ratio {labeled['leverage_ratio']:g}" in card


@pytest.mark.usefixtures("small_batches")
def test_a_fit_writes_down_what_was_made(recipe: dict[str, Any], tmp_path: Path) -> None:
    done = telltune.fit(recipe | {"method": "sft"}, tmp_path / "run", progress=False)
    (got,) = done.record["levers"]
    assert (got["lever"], got["made"]) == ("pseudo_label", 6)
    assert got["refused"] == {"less confident than those kept": got["asked"] - 6}
    assert done.record["labeled"]["task_examples"] == 12
    rows = [json.loads(x) for x in (tmp_path / "run" / "made.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert all(SHAPES[row["prompt"].split()[-1]] == row["completion"] for row in rows)
    # 12 examples twice and 6 once, in batches of 4.
    assert done.record["counts"]["optimizer_steps"] == 8
    checks = {check.what: check.held for check in telltune.verify(tmp_path / "run").checks}
    assert checks["made.jsonl"] is True
    assert checks["order of the examples"] is None


def test_adapters_that_agree_label_the_inputs_and_are_trained_once(
    recipe: dict[str, Any], tiny_base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = recipe["training"] | {"batch_size": 2}
    keys = {"pseudo_label": {"by": "model", "examples": 6}, "training": training}
    longer = recipe | keys | {"mixture": {"passes": 6}}
    before = [weight.clone() for weight in tiny_base.model.parameters()]
    ground = laid(longer, tiny_base)
    (got,) = ground.yields
    assert got.notes == ("Labeled by 2 adapters of the model, where they agree.",)
    assert len(got.examples) + got.refused["the adapters gave different answers"] == 6
    assert all(a.equal(b) for a, b in zip(before, tiny_base.model.parameters(), strict=True))

    def ask_again(self: object, examples: object, seed: int) -> None:
        raise AssertionError("the answers are in the cache")

    monkeypatch.setattr(teacher.Teacher, "_ask", ask_again)
    assert laid(longer, tiny_base).yields == ground.yields


def test_adapters_that_choose_among_other_labels_answer_anew(
    recipe: dict[str, Any], tiny_base: Any
) -> None:
    keys = {"pseudo_label": {"by": "model", "examples": 6}, "evaluation": {"answers": "likelihood"}}
    untrained = recipe["training"] | {"learning_rate": 1e-9}

    def made(*labels: str) -> set[str]:
        task = recipe["task"] | {"labels": ["ball", "box", "sheet", *labels]}
        (got,) = laid(recipe | keys | {"task": task, "training": untrained}, tiny_base).yields
        return {example.completion for example in got.examples}

    assert "e" in made("e")
    assert made() <= {"ball", "box", "sheet"}


def test_plan_says_what_is_labeled_beforehand(recipe: dict[str, Any]) -> None:
    plan = telltune.plan(recipe | {"method": "sft"}, measure=False)
    assert plan["unlabeled_examples"] > 6
    assert plan["before_training"] == ["up to 6 unlabeled inputs are labeled and added to the task"]
    without = recipe | {"task": {k: v for k, v in recipe["task"].items() if k != "unlabeled"}}
    with pytest.raises(RecipeError, match="`pseudo_label` needs unlabeled inputs"):
        telltune.plan(without, measure=False)


@pytest.mark.parametrize("of", ["train", "dev", "test", "rest"])
@pytest.mark.parametrize("method", ["sft_pseudo_label", "tfidf_em"])
def test_inputs_that_are_all_left_out_are_told_of(
    of: str, method: str, toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    task = toy_recipe["task"] | {"unlabeled": toy_recipe["task"].get(of, of)}
    count = 24 if of == "rest" else len(Path(task[of]).read_text().splitlines())
    told = f"needs unlabeled inputs, but all {count} of `task.unlabeled` are left out, because lab"
    with pytest.raises(RecipeError, match=told):
        telltune.fit(
            toy_recipe | {"task": task, "method": method}, tmp_path / "run", progress=False
        )


@pytest.mark.parametrize("name", ["sft_pseudo_label", "tell_pseudo_label"])
def test_methods_by_name_have_the_lever(name: str, toy_recipe: dict[str, Any]) -> None:
    method: Any = get_method(name)
    assert method.configured(as_recipe(toy_recipe)).pseudo_label.by == "auto"


@pytest.mark.parametrize(
    ("method", "keys", "said"),
    [
        ("tell", {}, []),
        ("tell_easy_first", {}, ["scored by PVI: 10 trainings"]),
        ("tell_easy_first", {"selection": {"folds": 3}}, ["scored by PVI: 6 trainings"]),
        ("sft", {"selection": {"in_context": 4}}, ["with 4 exemplars"]),
        ("sft", {"selection": {"by": "memory", "samples": 5}}, ["answers each question 20 times"]),
        ("sft", {"confidence": "pvi"}, ["scored by PVI: 10"]),
        ("self_guide", {}, ["up to 200 task examples"]),
        ("tell_auxiliary", {}, ["auxiliary tasks"]),
        ("tell_nearest", {}, ["from 2,000 by embeddings"]),
        ("sft", {"general_choice": "nearest"}, []),
        ("sft_product", {}, ["a small classifier is chosen by cross-validation"]),
        ("sft", {"pseudo_label": "tfidf"}, ["up to 400 unlabeled inputs are labeled"]),
        ("sft", {"pseudo_label": "model"}, ["2 adapters are trained on the task"]),
    ],
)
def test_each_thing_is_named_where_it_happens(
    method: str, keys: dict[str, Any], said: list[str]
) -> None:
    recipe = recipe_from_dict({"task": "medical_specialty", "general": "embedded", **keys})
    adapter: Any = get_method(method)
    found = describe_pre_training(adapter, adapter.configured(recipe))
    assert len(found) == len(said)
    for clause, part in zip(found, said, strict=True):
        assert part in clause


def test_a_plan_has_it(toy_recipe: dict[str, Any]) -> None:
    recipe = toy_recipe | {"selection": {"drop_hardest": 0.1}}
    assert "PVI" in telltune.plan(recipe, measure=False)["before_training"][0]


@pytest.fixture
def both(recipe: dict[str, Any], short_chains: None) -> dict[str, Any]:
    """Auxiliary tasks and pseudo-labels in one recipe."""
    return recipe | {"synthesis": {"make": "auxiliary"}}


def test_levers_add_up_and_each_learns_from_the_labeled_examples(
    recipe: dict[str, Any], both: dict[str, Any], tiny_base: Any
) -> None:
    ground = laid(both, tiny_base)
    first, second = ground.yields
    assert (first.lever, second.lever) == ("synthesis", "pseudo_label")
    assert second == laid(recipe, tiny_base).yields[0]
    labeled = load_task(as_recipe(recipe)).train
    assert ground.labeled == labeled
    assert {example.origin for example in first.examples} <= {example.origin for example in labeled}
    task = (*labeled, *first.examples)
    assert ground.task.train == (*task * 2, *second.examples)
    assert ground.counts["task_examples"] == 12
    again = laid(both, tiny_base)
    assert (again.yields, again.task) == (ground.yields, ground.task)


def test_every_lever_has_its_yield_in_all_records(both: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    record = telltune.fit(both | {"method": "sft"}, out, progress=False).record
    told = {got["lever"]: got["made"] for got in record["levers"]}
    assert list(told) == ["synthesis", "pseudo_label"]
    rows = [json.loads(line) for line in (out / "made.jsonl").read_text().splitlines()]
    assert told == {lever: sum(row["lever"] == lever for row in rows) for lever in told}
    card = " ".join((out / "README.md").read_text().split())
    assert f"Trained on: 12 labeled examples ({record['labeled']['task_tokens']} tokens)" in card
    for lever, made in told.items():
        assert f"- Lever `{lever}`: {made} examples from " in card
    assert telltune.verify(out).held is None


def test_made_answers_need_not_be_labels_for_a_classifier(
    both: dict[str, Any], tiny_base: Any
) -> None:
    with_classifier = both | {"product_of_experts": "tfidf"}
    alone, beside = (
        laid(with_classifier | keys, tiny_base).choice for keys in ({"pseudo_label": None}, {})
    )
    assert alone is not None
    assert beside is not None
    assert (alone.notes, alone.weight) == (beside.notes, beside.weight)
    assert alone.calibrated is not None


class Shapes(PluginLever):
    """Answers to unlabeled inputs, by their last word."""

    name = "shapes"
    use_as: ClassVar[UseAs] = "task"
    needs_unlabeled = True

    def apply(self, task: TaskData, resources: Resources) -> Yield:
        made = tuple(
            replace(one, completion=SHAPES[one.prompt.split()[-1]]) for one in task.unlabeled
        )
        return Yield(self.name, made, len(task.unlabeled), {})


def test_a_plugins_lever_is_given_unlabeled_inputs_and_placed_as_it_says(
    recipe: dict[str, Any], tiny_base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LEVER_SECTIONS, "shapes", Shapes)
    mine = recipe | {"pseudo_label": None, "levers": {"shapes": {}}}
    ground = laid(mine, tiny_base)
    labeled = load_task(as_recipe(recipe)).train
    [got] = ground.yields
    assert {one.prompt for one in got.examples} == {one.prompt for one in ground.unlabeled}
    assert ground.task.train == (*labeled, *got.examples)
    assert ground.recipe.mixture.passes == 2
    assert ground.confidence is None
    task = {key: value for key, value in recipe["task"].items() if key != "unlabeled"}
    with pytest.raises(RecipeError, match="`shapes` needs unlabeled inputs"):
        laid(mine | {"task": task}, tiny_base)
