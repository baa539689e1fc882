"""Chosen general data have the right amount, exclude held-out examples, and are reported."""

from __future__ import annotations

import shutil
import string
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from telltune.api import fit
from telltune.data.encoding import Encoder
from telltune.data.task import load_general, load_task
from telltune.errors import DataError, ModelError, RecipeError
from telltune.evaluation.forgetting import held_out_general
from telltune.fitting import general_choice
from telltune.fitting.general_choice import choose_general
from telltune.recipe import GeneralChoiceSpec, recipe_from_dict
from telltune.valuation import embeddings

if TYPE_CHECKING:
    from pathlib import Path

CHARACTERS = string.ascii_lowercase + string.digits


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace embeddings by counts of characters, so that no encoder needs to be installed."""

    def count(examples: Any, model: str) -> Any:
        text = [f"{e.prompt} {e.completion}" for e in examples]
        counts = np.array([[t.count(c) for c in CHARACTERS] for t in text], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    monkeypatch.setattr(general_choice, "embeddings_of", count)
    monkeypatch.setattr(general_choice, "encoder_revision", str)


def chosen(recipe: dict[str, Any], base: Any, **spec: Any) -> Any:
    loaded = recipe_from_dict(recipe)
    general = load_general(loaded)
    assert general is not None
    task = load_task(loaded)
    return choose_general(task, general, base, loaded, GeneralChoiceSpec(**spec))


@pytest.mark.usefixtures("letters")
def test_as_many_are_taken_as_come_nearest_to_the_ratio(
    toy_recipe: dict[str, Any], tiny_base: Any
) -> None:
    found = chosen(toy_recipe, tiny_base)
    encoder = Encoder(tiny_base.tokenizer)
    tokens = encoder.encode(list(found)).lengths
    wanted = encoder.encode(load_task(recipe_from_dict(toy_recipe)).train).lengths.sum()
    assert abs(tokens.sum() - wanted) <= tokens.max()
    assert found.contents.examples == len(found.chosen) == len(set(found.chosen))
    counted = toy_recipe | {"mixture": {"general_examples": 5}}
    assert list(chosen(counted, tiny_base)) == list(found)[:5]
    varied = chosen(counted, tiny_base, take="diverse")
    assert set(varied) != set(list(found)[:5])


def test_the_vectors_of_another_encoder_in_the_same_folder_are_computed_anew(
    toy_recipe: dict[str, Any], tiny_base: Any, tiny_encoder: Path, tmp_path: Path
) -> None:
    recipe, folder = recipe_from_dict(toy_recipe), tmp_path / "encoder"
    spec = GeneralChoiceSpec(embedding_model=str(folder))
    examples = load_task(recipe).train
    shutil.copytree(tiny_encoder, folder)
    before = general_choice._vectors(examples, tiny_base, recipe, spec, progress=False)
    weights = load_file(folder / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    save_file(weights | {name: -weights[name]}, folder / "model.safetensors", {"format": "pt"})
    embeddings._loaded.cache_clear()
    after = general_choice._vectors(examples, tiny_base, recipe, spec, progress=False)
    assert np.abs(after - before).max() > 0.1


@pytest.mark.usefixtures("letters")
def test_what_is_held_out_is_no_candidate(toy_recipe: dict[str, Any], tiny_base: Any) -> None:
    general = load_general(recipe_from_dict(toy_recipe))
    assert general is not None
    available = general.contents.examples
    recipe = toy_recipe | {"mixture": {"general_examples": available - 4}}
    taken = chosen(recipe, tiny_base, candidates=available - 4)
    held = held_out_general(general, 4, available - 4, seed=0)
    assert not {e.origin for e in taken} & {e.origin for e in held}
    with pytest.raises(DataError, match=r"raise general_choice\.candidates"):
        chosen(recipe, tiny_base, candidates=available - 5)
    with pytest.raises(DataError, match="raise candidates, or lower"):
        chosen(toy_recipe, tiny_base, candidates=1)


def test_a_run_by_gradients_trains_on_what_it_chose(
    toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe = toy_recipe | {"general_choice": {"by": "gradients", "candidates": 30}}
    record = fit(recipe, tmp_path / "out", progress=False).record
    plain = fit(toy_recipe, tmp_path / "plain", progress=False).record
    assert record["data"]["general"]["name"].endswith("(nearest)")
    assert record["data"]["general"]["sha256"] != plain["data"]["general"]["sha256"]
    assert record["counts"]["leverage_ratio"] == pytest.approx(
        plain["counts"]["leverage_ratio"], abs=0.15
    )
    # The adapter that scores candidates does not affect training.
    assert record["counts"]["task_tokens"] == plain["counts"]["task_tokens"]


def test_what_cannot_be_chosen_is_refused(
    toy_recipe: dict[str, Any], tmp_path: Path, tiny_base: Any
) -> None:
    mixed = toy_recipe | {"general_choice": "nearest", "method": "tell_self_sampled"}
    with pytest.raises(RecipeError, match="remove `general_choice`"):
        fit(mixed, tmp_path / "out", progress=False)
    with pytest.raises(ModelError, match="cannot be loaded"):
        chosen(toy_recipe, tiny_base, embedding_model=str(tmp_path))
