"""A chat template of the user works from the recipe to plain transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

import telltune
from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.errors import DataError
from telltune.fitting.adapter_folder import load_predictor
from telltune.fitting.model_info import load_model_info
from telltune.models.tokenizer import PLAIN_TEMPLATE
from telltune.recipe import ModelSpec, load_recipe

CASES = Path(__file__).parents[1] / "cases"


@pytest.fixture
def case(toy_recipe: dict[str, Any]) -> Any:
    """Return a function that makes a recipe with a case's template and data."""

    def of(template: str, data: str, **more: Any) -> dict[str, Any]:
        return {
            **toy_recipe,
            "model": {
                "name": toy_recipe["model"],
                "chat_template": str(CASES / f"{template}.jinja"),
            },
            "task": {"train": str(CASES / f"{data}.jsonl")},
            "method": "sft",
            **more,
        }

    return of


def test_a_run_with_a_template_that_wants_parts_sees_the_users_text(
    case: Any, tmp_path: Path
) -> None:
    recipe = case("template/content-parts", "template/plain", method="sft_anchor")
    out = telltune.fit(recipe, tmp_path / "out", progress=False).folder
    for row in telltune.show(recipe, 4):
        number = int(row["origin"].rsplit(":", 1)[1]) - 1
        answer = "ship" if number % 2 == 0 else "bill"
        assert f"nothing else.\n\nparcel {number} late<|im_end|>" in row["text"]
        assert row["text"].endswith(f"assistant\n{answer}<|im_end|>")
    # Plain transformers gives the adapter the tokens that it was trained on.
    saved = AutoTokenizer.from_pretrained(out)
    parts = [{"type": "text", "text": "parcel 0 late"}]
    ids = saved.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True, return_dict=False
    )
    assert [ids] == Encoder(load_predictor(out).tokenizer).prompts([Example("parcel 0 late", "")])
    assert len(telltune.predict(out, ["parcel 0 late"])) == 1


def told(recipe: dict[str, Any]) -> list[str]:
    """Return a plan's warnings about the template."""
    return [w for w in telltune.plan(recipe, measure=False)["warnings"] if "template" in w]


def test_a_run_whose_template_drops_the_system_text_is_refused(case: Any) -> None:
    recipe = case("template/drops-system", "template/sys")
    with pytest.raises(
        DataError,
        match=r"sys\.jsonl:\d: the chat template .*drops-system\.jinja drops the system turn",
    ):
        telltune.plan(recipe, measure=False)


def test_an_answer_behind_an_open_block_that_nothing_closes_is_told(
    case: Any, tmp_path: Path
) -> None:
    recipe = case("thinking/opens-think", "thinking/opened")
    assert told(recipe) == []
    assert [row["text"].count("<think>") for row in telltune.show(recipe, 4)] == [1] * 4
    mixed = tmp_path / "mixed.jsonl"
    opened = (CASES / "thinking" / "opened.jsonl").read_text()
    mixed.write_text(opened + '{"prompt": "5 + 1?", "completion": "6"}\n')
    recipe["task"] = {"train": str(mixed)}
    [warning] = told(recipe)
    assert "opens `<think>`" in warning
    assert "1 of 5 examples have no `</think>`" in warning
    # With the tags of the template.
    template = (CASES / "thinking" / "opens-think.jinja").read_text()
    retagged = template.replace("<think>", "<seed:think>").replace("</think>", "</seed:think>")
    (tmp_path / "seed.jinja").write_text(retagged)
    recipe["model"]["chat_template"] = str(tmp_path / "seed.jinja")
    mixed.write_text(
        opened.replace("</think>", "</seed:think>") + '{"prompt": "5 + 1?", "completion": "6"}\n'
    )
    [warning] = told(recipe)
    assert "opens `<seed:think>`" in warning
    assert "1 of 5 examples have no `</seed:think>`" in warning


def test_the_chosen_template_goes_with_the_adapter(
    toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    template = tmp_path / "mine.jinja"
    shutil.copy(CASES / "template" / "drops-system.jinja", template)
    toy_recipe["model"] = {"name": toy_recipe["model"], "chat_template": "mine.jinja"}
    toy_recipe["method"] = "sft"
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(toy_recipe))
    recipe = load_recipe(path)
    # Relative to the recipe, as other files.
    assert recipe.model.chat_template == str(template)
    out = telltune.fit(recipe, tmp_path / "out", progress=False).folder
    assert (out / "chat_template.jinja").read_text() == template.read_text()
    record = json.loads((out / "tell.json").read_text())
    assert record["recipe"]["model"]["chat_template"] == str(template)
    assert telltune.verify(out).held
    # A changed file is another template, and the adapter keeps its own.
    known = load_model_info(recipe.model).tokenizer.chat_template
    template.write_text(known + "{{ '' }}")
    assert load_model_info(recipe.model).tokenizer.chat_template == known + "{{ '' }}"
    assert telltune.verify(out).held is False
    template.unlink()
    assert load_predictor(out).tokenizer.chat_template == known


def test_a_model_without_a_template_is_told(toy_recipe: dict[str, Any], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(toy_recipe["model"], bare)
    (bare / "chat_template.jinja").unlink()
    assert load_model_info(ModelSpec(name=str(bare))).tokenizer.chat_template == PLAIN_TEMPLATE
    toy_recipe["model"] = str(bare)
    [warning] = told(toy_recipe)
    assert "has no chat template" in warning
    assert "`model.chat_template`" in warning
    toy_recipe["model"] = {"name": str(bare), "chat_template": "chatml"}
    assert told(toy_recipe) == []
    [row] = telltune.show(toy_recipe, 1)
    assert row["text"].startswith("<|im_start|>user\n")
