"""A plan reads a model's facts without transformers, and only if they are certain."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from telltune.data.tokenizer import KnownTokenizer
from telltune.errors import ModelError
from telltune.fitting import model_info as module
from telltune.fitting.model_info import load_model_info
from telltune.models import model_files, model_shape
from telltune.recipe import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny model about which nothing is cached."""
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    return copy


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what was loaded, "config" or "tokenizer"."""
    found: list[str] = []

    def spy(name: str, load: Callable[[ModelSpec], Any]) -> Callable[[ModelSpec], Any]:
        def loading(spec: ModelSpec) -> Any:
            found.append(name)
            return load(spec)

        return loading

    monkeypatch.setattr(module, "load_config", spy("config", module.load_config))
    monkeypatch.setattr(module, "load_tokenizer", spy("tokenizer", module.load_tokenizer))
    return found


def test_a_model_is_looked_at_once(folder: Path, loaded: list[str]) -> None:
    first = load_model_info(ModelSpec(name=str(folder)))
    assert sorted(loaded) == ["config", "tokenizer"]
    again = load_model_info(ModelSpec(name=str(folder)))
    assert len(loaded) == 2
    assert again.shape == first.shape == model_shape(AutoConfig.from_pretrained(folder))
    tokenizer = again.tokenizer.load()
    assert tokenizer is again.tokenizer.load()
    assert loaded[2:] == ["tokenizer"]
    found = KnownTokenizer.of(tokenizer)
    assert (again.tokenizer.identity, again.tokenizer.chat_template) == (
        found.identity,
        found.chat_template,
    )
    assert found.identity == first.tokenizer.identity


def test_defaults_that_a_configuration_leaves_out_are_known(folder: Path) -> None:
    values = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64}
    (folder / "config.json").write_text(json.dumps(values))
    for _ in range(2):
        shape = load_model_info(ModelSpec(name=str(folder))).shape
        assert (shape.hidden, shape.layers, shape.mlp_width) == (64, 32, 11008)
        assert (shape.vocabulary, shape.context_length) == (32000, 2048)
        assert shape.sizes["num_key_value_heads"] == 32


def test_a_changed_tokenizer_is_another(folder: Path, loaded: list[str]) -> None:
    before = load_model_info(ModelSpec(name=str(folder)))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<extra>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    after = load_model_info(ModelSpec(name=str(folder)))
    assert after.tokenizer.identity != before.tokenizer.identity
    assert after.shape == before.shape
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    last = load_model_info(ModelSpec(name=str(folder)))
    assert last.tokenizer.chat_template == "{{ messages[0]['content'] }}"
    assert last.tokenizer.identity == after.tokenizer.identity
    assert len(loaded) == 6


def test_a_changed_configuration_is_another(folder: Path) -> None:
    before = load_model_info(ModelSpec(name=str(folder)))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    after = load_model_info(ModelSpec(name=str(folder)))
    assert (before.shape.layers, after.shape.layers) == (2, 5)
    assert after.tokenizer.identity == before.tokenizer.identity


def test_another_version_of_the_libraries_looks_anew(
    folder: Path, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model_info(ModelSpec(name=str(folder)))
    monkeypatch.setattr(module, "tokenizing_code", lambda: "of tomorrow")
    load_model_info(ModelSpec(name=str(folder)))
    assert len(loaded) == 4


def test_weights_are_not_read(folder: Path, loaded: list[str]) -> None:
    load_model_info(ModelSpec(name=str(folder)))
    (folder / "model.safetensors").write_bytes(b"other")
    load_model_info(ModelSpec(name=str(folder)))
    assert len(loaded) == 2


def test_what_changes_while_it_is_read_is_not_remembered(
    folder: Path, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = module.load_config

    def slow(spec: ModelSpec) -> Any:
        config = load(spec)
        (folder / "generation_config.json").write_text(json.dumps({"temperature": len(loaded)}))
        return config

    monkeypatch.setattr(module, "load_config", slow)
    for expected in (2, 4):
        load_model_info(ModelSpec(name=str(folder)))
        assert len(loaded) == expected


def test_a_model_that_is_refused_is_refused_every_time(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["LlamaForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(config))
    for _ in range(2):
        with pytest.raises(ModelError, match="is a LlamaForSequenceClassification, not a causal"):
            load_model_info(ModelSpec(name=str(folder)))


def test_a_model_with_its_own_code_is_looked_at_every_time(folder: Path, loaded: list[str]) -> None:
    for expected in (2, 4):
        load_model_info(ModelSpec(name=str(folder), trust_remote_code=True))
        assert len(loaded) == expected


def test_a_hub_model_is_known_by_its_snapshot(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, commit = tmp_path / "hub", "0123456789" * 4
    snapshot = hub / "models--toys--tiny" / "snapshots" / commit
    shutil.copytree(folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    names = {path.name for path in folder.iterdir()} - {"model.safetensors"}
    for revision in (None, "main", commit):
        found = model_files(ModelSpec(name="toys/tiny", revision=revision))
        assert found is not None
        assert {path.parent for path in found} == {snapshot}
        assert {path.name for path in found} == names
    assert model_files(ModelSpec(name="toys/other")) is None
    assert model_files(ModelSpec(name="toys/tiny", revision="v2")) is None
