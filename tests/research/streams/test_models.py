"""Transformers are levels of a cascade; the tests use tiny ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from telltune.api import fit
from telltune.data.examples import Example
from telltune.errors import ModelError, RecipeError
from telltune.fitting.baseline_folder import load_folder
from telltune.research.streams.levels import softmax
from telltune.research.streams.models import EncoderLevel, FittedLevel
from telltune.research.streams.top import local_model

if TYPE_CHECKING:
    from pathlib import Path

SHAPES = {"round": "ball", "square": "box", "flat": "sheet"}
LABELS = list(SHAPES.values())


def items(count: int) -> tuple[list[str], list[int]]:
    kinds = list(SHAPES)
    return [f"item {n} is {kinds[n % 3]}" for n in range(count)], [n % 3 for n in range(count)]


def test_an_encoder_learns_what_it_is_shown(tiny_encoder: Path) -> None:
    level = EncoderLevel(str(tiny_encoder), 3, learning_rate=5e-3)
    texts, labels = items(12)
    # A random encoder represents its first token best.
    texts = [" ".join(reversed(text.split())) for text in texts]
    for _ in range(100):
        level.learn(texts, labels)
    likely = level.likelihoods(texts)
    np.testing.assert_allclose(likely.sum(1), 1, atol=1e-5)
    assert (likely.argmax(1) == labels).mean() > 0.9


def test_an_encoders_state_makes_the_same_level(tiny_encoder: Path) -> None:
    one, other = (EncoderLevel(str(tiny_encoder), 3, learning_rate=1e-2, seed=s) for s in (0, 1))
    texts, labels = items(6)
    one.learn(texts, labels)
    kept = one.state()
    one.learn(texts, labels)
    other.restore(kept)
    other.learn(texts, labels)
    # Dropout draws random numbers; without it both would be identical.
    assert np.abs(one.likelihoods(texts) - other.likelihoods(texts)).max() < 0.1
    with pytest.raises(ModelError, match="cannot be loaded"):
        EncoderLevel(str(tiny_encoder / "nowhere"), 3)


@pytest.fixture(scope="module")
def fitted_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fitted") / "adapter"


@pytest.fixture
def adapter(fitted_once: Path, toy_recipe: dict[str, Any]) -> Path:
    """Return an adapter that has learned the toy task, fitted once for all tests."""
    if not fitted_once.exists():
        training = toy_recipe["training"] | {"schedule": "constant"}
        recipe = toy_recipe | {"method": "sft_anchor", "training": training}
        fit(recipe | {"mixture": {"passes": 10}}, fitted_once, progress=False)
    return fitted_once


def test_a_finished_adapter_is_a_level_and_a_top(adapter: Path) -> None:
    level = FittedLevel(adapter, LABELS)
    assert level.name == "adapter"
    texts, labels = items(12)
    likely = level.likelihoods(texts)
    assert (likely.argmax(1) == labels).mean() > 0.9
    level.learn(texts, labels)
    level.restore(level.state())
    np.testing.assert_array_equal(level.likelihoods(texts), likely)
    top = local_model("", str(adapter), LABELS, "")
    told = [top.label(text) for text in texts]
    assert np.mean([t.label == LABELS[k] for t, k in zip(told, labels, strict=True)]) > 0.9
    assert all(t.tokens > 0 and t.seconds > 0 for t in told)


def test_the_classifier_of_an_adapter_folder_chooses_with_the_adapter(
    toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    untrained = toy_recipe["training"] | {"learning_rate": 1e-9}
    recipe = toy_recipe | {"method": "sft_product", "training": untrained}
    fit(recipe | {"mixture": {"passes": 1}}, tmp_path / "adapter", progress=False)
    # Labels may be spelled and ordered in another way, and some may be new.
    level = FittedLevel(tmp_path / "adapter", ["Sheet", "never seen", "box", "ball"])
    texts, _ = items(12)
    predictor = load_folder(tmp_path / "adapter")
    examples = [Example(text, "") for text in texts]
    names, scores = predictor.label_scores(examples)
    order = [names.index(name) for name in ("sheet", "box", "ball")]
    likely = level.likelihoods(texts)
    np.testing.assert_allclose(likely[:, [0, 2, 3]], softmax(scores[:, order], axis=1), atol=1e-6)
    assert not likely[:, 1].any()
    # The adapter alone has learned nothing; the classifier knows the task.
    said = np.array(["sheet", "", "box", "ball"])[likely.argmax(1)].tolist()
    assert said == predictor.predict(examples)
    predictor.classifier = None
    _, alone = predictor.label_scores(examples)
    assert np.abs(softmax(alone[:, order], axis=1) - likely[:, [0, 2, 3]]).max() > 0.1
    with pytest.raises(RecipeError, match="none of the labels"):
        FittedLevel(tmp_path / "adapter", ["spam", "fine"])


def test_an_input_beyond_the_context_is_left_to_the_top_which_says_so(adapter: Path) -> None:
    long = "item " * 600
    likely = FittedLevel(adapter, LABELS).likelihoods([long, "item 1 is round"])
    np.testing.assert_allclose(likely[0], 1 / 3)
    assert likely[1].max() > 0.34
    told = local_model("", str(adapter), LABELS, "").label(long)
    assert (told.label, told.tokens) == (None, 0)
    assert "the top's context 512" in told.failure


@pytest.mark.parametrize("method", ["tfidf_linear", "knn"])
def test_a_finished_baseline_is_a_level_and_a_top(
    method: str, toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "baseline"
    fit(toy_recipe | {"method": method}, folder, progress=False)
    level = FittedLevel(folder, [*LABELS, "never seen"])
    texts, labels = items(12)
    likely = level.likelihoods(texts)
    np.testing.assert_allclose(likely.sum(1), 1, atol=1e-6)
    assert level.name == method
    assert likely.argmax(1).tolist() == labels
    assert not likely[:, 3].any()
    # Certain of what it was trained on, and less certain of uninformative texts.
    assert likely.max(1).min() > level.likelihoods(["item"]).max()
    level.learn(texts, labels)
    level.restore(level.state())
    np.testing.assert_array_equal(level.likelihoods(texts), likely)
    told = [local_model("", str(folder), LABELS, "").label(text) for text in texts]
    assert [t.label for t in told] == [LABELS[k] for k in labels]
    assert {t.tokens for t in told} == {0}


def test_a_baseline_of_other_labels_is_no_level(toy_recipe: dict[str, Any], tmp_path: Path) -> None:
    fit(toy_recipe | {"method": "tfidf_linear"}, tmp_path / "baseline", progress=False)
    with pytest.raises(RecipeError, match="none of the labels"):
        FittedLevel(tmp_path / "baseline", ["spam", "fine"])


def test_a_base_model_is_a_top_that_may_say_no_label(tiny_model: Path) -> None:
    found = local_model(str(tiny_model), None, LABELS, "Name the shape.").label("item 1 is round")
    assert (found.label is None) == bool(found.failure)
