"""An adapter folder works in telltune, and in plain transformers without telltune."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml

from telltune.data.encoding import Encoder
from telltune.data.examples import Example, Message
from telltune.data.task import load_general, load_split, load_task
from telltune.errors import ModelError
from telltune.fitting.adapter_folder import load_predictor, read_tell
from telltune.fitting.baseline_folder import load_folder
from telltune.fitting.protocol import Settings
from telltune.methods.registry import get_method
from telltune.models import load_base
from telltune.recipe import recipe_from_dict

if TYPE_CHECKING:
    from pathlib import Path

    from forked import PlainPython
    from telltune.fitting.predictor import Predictor
    from telltune.models import LoadedModel
    from telltune.recipe import ModelSpec

PLAIN = """
import json, sys
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

folder, conversations = sys.argv[1], json.loads(sys.argv[2])
model = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
found = []
for messages in conversations:
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    prompt = inputs["input_ids"].shape[1]
    text = tokenizer.decode(answer[0, prompt:], skip_special_tokens=True)
    found.append([inputs["input_ids"][0].tolist(), text.strip()])
assert not any(name.startswith("telltune") for name in sys.modules)
print(json.dumps(found))
"""


def fit(values: dict[str, Any], out: Path) -> Predictor:
    recipe = recipe_from_dict(values)
    base = load_base(
        recipe.model, "fp32", trainable=bool(values["training"].get("full_parameters"))
    )
    settings = Settings(recipe, out, progress=False)
    return get_method(recipe.method).run(load_task(recipe), load_general(recipe), base, settings)


@pytest.fixture
def two_sided(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe with an anchor before the question and one before the answer."""
    toy_recipe["anchor"] = {"prompt": "Name the shape.", "response": "Shape:"}
    toy_recipe["evaluation"] = {"max_new_tokens": 8}
    # Different from the base, but not so much that all answers are the same.
    toy_recipe["training"]["learning_rate"] = 2e-3
    return toy_recipe


@pytest.fixture(scope="module")
def fitted_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fitted") / "out"


@pytest.fixture
def fitted(fitted_once: Path, two_sided: dict[str, Any], tmp_path: Path) -> Path:
    """Return a copy of an adapter folder, which the test may change."""
    if not fitted_once.exists():
        fit(two_sided, fitted_once)
    return shutil.copytree(fitted_once, tmp_path / "out")


def test_the_folder_holds_an_adapter_and_what_it_was_made_of(
    two_sided: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    in_memory = fit(two_sided, out)
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "generation_config.json",
        "tell.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_log.jsonl",
    }
    record = read_tell(out)
    assert record["anchor"] == {"prompt": "Name the shape.", "response": "Shape:", "place": "user"}
    assert recipe_from_dict(record["recipe"]) == recipe_from_dict(two_sided)
    assert record["counts"]["task_examples"] == 24
    assert record["versions"].keys() >= {"telltune", "torch", "transformers", "peft"}
    card = (out / "README.md").read_text(encoding="utf-8")
    assert two_sided["model"] not in card
    assert "Base model: a local folder (tiny-model" in card
    assert "base_model" not in yaml.safe_load(card.split("---")[1])
    assert "> Name the shape." in card

    loaded = load_predictor(out, precision="fp32")
    test = load_split(recipe_from_dict(two_sided), "test")
    answers = in_memory.predict(test)
    assert loaded.predict(test) == answers
    assert len(set(answers)) > 1
    assert loaded.anchor == in_memory.anchor
    assert loaded.cost == replace(in_memory.cost, seconds=record["seconds"])
    torch.testing.assert_close(loaded.nll(test)[0], in_memory.nll(test)[0])


def test_plain_transformers_gives_the_same_ids_and_answers(
    plain_python: PlainPython, two_sided: dict[str, Any], fitted: Path
) -> None:
    predictor = load_predictor(fitted, precision="fp32")
    examples = [
        *load_split(recipe_from_dict(two_sided), "test")[:4],
        Example(
            "item 9 is flat", "", history=(Message("user", "item 1"), Message("assistant", "box"))
        ),
    ]
    conversations = [
        [m._asdict() for m in (*e.history, Message("user", e.prompt))] for e in examples
    ]
    printed = plain_python.run(PLAIN, fitted, json.dumps(conversations))
    ids, texts = zip(*json.loads(printed.splitlines()[-1]), strict=True)
    assert list(ids) == Encoder(predictor.tokenizer).prompts(examples)
    assert all("Name the shape." in predictor.tokenizer.decode(row) for row in ids)
    assert list(texts) == predictor.predict(examples)


@pytest.mark.parametrize(
    ("precision", "computed"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_answers_are_computed_in_the_precision_of_the_run(
    fitted: Path, precision: str, computed: torch.dtype
) -> None:
    record = read_tell(fitted)
    record["recipe"]["training"]["precision"] = precision
    (fitted / "tell.json").write_text(json.dumps(record))
    assert load_folder(fitted).model.dtype == computed
    assert load_folder(fitted, precision="fp32").model.dtype == torch.float32


def test_another_base_is_refused(
    two_sided: dict[str, Any], tmp_path: Path, tiny_model: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    two_sided |= {"model": str(base), "method": "sft", "mixture": {"passes": 1}}
    fit(two_sided, tmp_path / "out")
    changed = load_base(recipe_from_dict(two_sided).model, "fp32").model
    with torch.no_grad():
        next(changed.parameters())[0, 0] += 1
    changed.save_pretrained(base)
    with pytest.raises(ModelError, match=r"was trained on .*base .*model\.revision, or fit again"):
        load_predictor(tmp_path / "out")


def test_every_weight_can_be_trained_and_loaded_again(
    two_sided: dict[str, Any], tmp_path: Path
) -> None:
    two_sided["training"] |= {"full_parameters": True, "learning_rate": 1e-3}
    in_memory = fit(two_sided, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    loaded = load_predictor(tmp_path / "out", precision="fp32")
    test = load_split(recipe_from_dict(two_sided), "test")
    assert loaded.predict(test) == in_memory.predict(test)


def test_a_folder_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tell\.json is missing: .*again to resume"):
        load_predictor(tmp_path)
    (tmp_path / "tell.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"tell\.json cannot be read"):
        load_predictor(tmp_path)


def test_a_folder_without_its_adapter_is_refused(fitted: Path) -> None:
    (fitted / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match=r"adapter_config\.json is missing; restore it, or fit"):
        load_predictor(fitted)


def test_a_damaged_file_is_refused_by_name(fitted: Path) -> None:
    files = read_tell(fitted)["files"]
    # The files that answers depend on: the weights, and the template with the anchor.
    assert {"adapter_model.safetensors", "adapter_config.json", "chat_template.jinja"} <= set(files)
    (fitted / "README.md").write_text("Notes of my own.")
    assert load_predictor(fitted, precision="fp32").anchor is not None
    for name in files:
        path = fitted / name
        good = path.read_bytes()
        damaged = bytearray(good)
        damaged[len(good) // 2] ^= 1
        for bad in (bytes(damaged), good[:-1]):
            path.write_bytes(bad)
            with pytest.raises(ModelError, match=f"{name} is damaged: .*or fit again"):
                load_predictor(fitted, precision="fp32")
        path.write_bytes(good)


def test_a_folder_cannot_let_its_base_run_code(
    fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = read_tell(fitted)
    record["recipe"]["model"] |= {"trust_remote_code": True, "allow_pickle": True}
    (fitted / "tell.json").write_text(json.dumps(record))
    asked = []

    def spied(spec: ModelSpec, precision: str) -> LoadedModel:
        asked.append((spec.trust_remote_code, spec.allow_pickle))
        return load_base(spec, precision)

    monkeypatch.setattr("telltune.fitting.adapter_folder.load_base", spied)
    load_predictor(fitted, precision="fp32")
    load_predictor(fitted, precision="fp32", trust_model=True)
    assert asked == [(False, False), (True, True)]
