"""A predictor writes answers or chooses among known labels, as the recipe says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from telltune import api
from telltune.data.task import load_split, load_task
from telltune.errors import RecipeError
from telltune.fitting.adapter_folder import load_predictor
from telltune.fitting.protocol import Settings
from telltune.inference.packed_engine import PackedGenerator
from telltune.inference.transformers_engine import TransformersGenerator
from telltune.methods.registry import get_method
from telltune.recipe import EvaluationSpec, recipe_from_dict

if TYPE_CHECKING:
    from pathlib import Path


def test_the_likeliest_label_is_the_answer(toy_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = {**toy_recipe, "method": "sft", "evaluation": {"answers": "likelihood"}}
    api.fit(recipe, tmp_path / "fit", progress=False)
    predictor = load_predictor(tmp_path / "fit")
    assert predictor.labels == ("ball", "box", "sheet")
    items = load_split(recipe_from_dict(recipe), "test")
    answers = predictor.predict(items)
    by_label = []
    for label in predictor.labels:
        said = [type(item)(item.prompt, label) for item in items]
        by_label.append(predictor.nll(said)[0].tolist())
    for answer, nll in zip(answers, zip(*by_label, strict=True), strict=True):
        assert answer == predictor.labels[nll.index(min(nll))]


@pytest.mark.parametrize("name", ["base", "few_shot", "few_shot_calibrated", "over_prompt", "knn"])
def test_listed_labels_are_those_to_choose_among(
    name: str, toy_recipe: dict[str, Any], tiny_base: Any
) -> None:
    listed = ["sheet", "ball", "box", "ring"]
    toy_recipe["task"]["labels"] = listed
    recipe = recipe_from_dict(toy_recipe)
    answerer = get_method(name).run(load_task(recipe), None, tiny_base, Settings(recipe))
    assert answerer.labels == tuple(listed)


def test_answers_that_are_no_closed_set_cannot_be_chosen_among(tiny_base: Any) -> None:
    from telltune.data.examples import Example
    from telltune.fitting.predictor import Predictor

    spec = EvaluationSpec(answers="likelihood")
    predictor = Predictor(tiny_base.model, tiny_base.tokenizer, None, 8, spec)
    with pytest.raises(RecipeError, match="not a closed set"):
        predictor.predict([Example("item 1 is round", "")])


def test_no_prompts_have_no_answers(tiny_base: Any) -> None:
    from telltune.fitting.predictor import Predictor

    for answers in ("generate", "likelihood"):
        spec = EvaluationSpec(answers=answers)
        predictor = Predictor(tiny_base.model, tiny_base.tokenizer, None, 8, spec, ("ball", "box"))
        assert predictor.predict([]) == []


@pytest.mark.parametrize(
    ("name", "kind"), [("auto", PackedGenerator), ("transformers", TransformersGenerator)]
)
def test_the_recipe_names_the_engine(
    tiny_base: Any, monkeypatch: pytest.MonkeyPatch, name: Any, kind: Any
) -> None:
    from telltune.data.examples import Example
    from telltune.fitting.predictor import Predictor

    asked = []
    generate = kind.generate
    monkeypatch.setattr(
        kind, "generate", lambda self, *a, **k: asked.append(kind) or generate(self, *a, **k)
    )
    spec = EvaluationSpec(engine=name)
    Predictor(tiny_base.model, tiny_base.tokenizer, None, 4, spec).predict([Example("item 1", "")])
    assert asked == [kind]


@pytest.mark.parametrize("name", ["auto", "vllm", "transformers", "packed"])
def test_a_few_prompts_start_no_other_engine(
    tiny_base: Any, monkeypatch: pytest.MonkeyPatch, name: Any
) -> None:
    from telltune.data.examples import Example
    from telltune.fitting.predictor import Predictor
    from telltune.inference import engine

    def started(_: Any) -> Any:
        raise AssertionError("vLLM was started")

    monkeypatch.setattr(engine, "VllmGenerator", started)
    monkeypatch.setattr(engine, "_vllm_is_quicker", lambda: True)
    spec = EvaluationSpec(engine=name)
    predictor = Predictor(tiny_base.model, tiny_base.tokenizer, None, 4, spec, in_process=True)
    assert len(predictor.predict([Example("item 1 is round", "")])) == 1


@pytest.mark.parametrize("verb", ["plan", "fit"])
def test_a_likelihood_without_labels_is_refused_before_training(
    toy_recipe: dict[str, Any], tmp_path: Path, verb: str
) -> None:
    train = tmp_path / "train.jsonl"
    rows = [{"prompt": f"item {i}", "completion": f"answer {i}"} for i in range(8)]
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        **toy_recipe,
        "method": "sft",
        "task": {"train": str(train)},
        "evaluation": {"answers": "likelihood"},
    }
    with pytest.raises(RecipeError, match="not a closed set"):
        api.plan(recipe) if verb == "plan" else api.fit(recipe, tmp_path / "fit", progress=False)
    assert not (tmp_path / "fit" / "log.jsonl").exists()
