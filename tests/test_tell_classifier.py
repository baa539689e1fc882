"""The classifier passes scikit-learn's checks that apply to texts, and works with its tools."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils import estimator_checks

import telltune
from telltune import TellClassifier
from telltune.errors import ModelError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def shapes(toy_rows: Callable[..., Any]) -> Callable[[range], tuple[list[str], list[str]]]:
    """Return a function that makes texts and their classes."""

    def rows(numbers: range) -> tuple[list[str], list[str]]:
        found = toy_rows(numbers)
        return [row["prompt"] for row in found], [row["completion"] for row in found]

    return rows


@pytest.fixture
def quick(tiny_model: Path) -> TellClassifier:
    """Return a classifier that fits in a moment."""
    return TellClassifier(model=str(tiny_model), method="tfidf_linear", general=None)


class OfNumbers(TellClassifier):
    """Classifier of the texts of numbers, for checks of scikit-learn that make numbers."""

    def fit(self, X: Any, y: Any) -> OfNumbers:  # noqa: N803
        return super().fit([*map(str, np.asarray(X))], y)

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        return super().predict_proba([*map(str, np.asarray(X))])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = False
        return tags


CHECKS = (
    *("estimator_cloneable", "estimator_tags_renamed", "valid_tag_types", "estimator_repr"),
    *("no_attributes_set_in_init", "fit_score_takes_y", "estimators_overwrite_params"),
    *("dont_overwrite_parameters", "estimators_fit_returns_self", "readonly_memmap_input"),
    *("estimators_unfitted", "estimators_pickle", "classifiers_one_label", "dict_unchanged"),
    *("classifiers_classes", "methods_subset_invariance", "methods_sample_order_invariance"),
    *("fit_idempotent", "fit_check_is_fitted", "get_params_invariance", "set_params"),
    *(
        "parameters_default_constructible",
        "supervised_y_2d",
        "classifiers_regression_target",
        "requires_y_none",
    ),
)
"""Checks of scikit-learn that need no numbers in X."""


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.filterwarnings("ignore")
def test_checks_of_scikit_learn_pass(name: str, quick: TellClassifier) -> None:
    check = getattr(estimator_checks, f"check_{name}")
    check("TellClassifier", OfNumbers(**quick.get_params()))


def test_scikit_learn_knows_that_it_takes_texts(quick: TellClassifier) -> None:
    with pytest.warns(match="requires input"):
        estimator_checks.check_estimator(quick, on_skip=None)


@pytest.mark.parametrize("method", ["tfidf_linear", "sft", "sft_product"])
def test_probabilities_are_those_of_the_classes_in_order(
    method: str, tiny_model: Path, shapes: Callable[..., Any]
) -> None:
    passes = {"mixture": {"passes": 6}, "training": {"learning_rate": 1e-2}}
    classifier = TellClassifier(str(tiny_model), method, general=None, settings=passes)
    texts, labels = shapes(range(24))
    assert classifier.fit(texts, labels) is classifier
    assert classifier.classes_.tolist() == ["ball", "box", "sheet"]
    asked, expected = shapes(range(24, 33))
    chances = classifier.predict_proba(asked)
    assert chances.shape == (9, 3)
    assert chances.sum(axis=1) == pytest.approx(1)
    answers = classifier.predict(asked)
    assert answers.tolist() == classifier.classes_[chances.argmax(axis=1)].tolist()
    assert answers.tolist() == telltune.predict(classifier.folder_, asked)
    if method == "tfidf_linear":
        assert classifier.score(asked, expected) == 1


def test_knn_answers_with_the_class_of_the_nearest_example(tiny_model: Path) -> None:
    # Together, the seven others are likelier than the one example of its class.
    texts = ["where's my parcel", "where is my parcel", "where's my package", "wheres my parcel"]
    texts += ["where is my package", "so where's my parcel", "where's my parcel now"]
    texts += ["where's the parcel"]
    labels = ["b", *"aaaaaaa"]
    classifier = TellClassifier(str(tiny_model), "knn", general=None).fit(texts, labels)
    assert classifier.predict(texts).tolist() == labels
    assert telltune.predict(classifier.folder_, texts) == labels


def test_classes_keep_their_type(quick: TellClassifier, shapes: Callable[..., Any]) -> None:
    texts, labels = shapes(range(24))
    for classes in ([7, 3, 5], [True, False, False]):
        y = [dict(zip(("ball", "box", "sheet"), classes, strict=True))[label] for label in labels]
        predicted = quick.fit(np.array(texts), y).predict(texts)
        assert predicted.dtype == np.array(y).dtype
        assert predicted.tolist() == y


def test_it_is_cross_validated_and_searched(
    quick: TellClassifier, shapes: Callable[..., Any]
) -> None:
    texts, labels = shapes(range(30))
    assert cross_val_score(quick, texts, labels, cv=3).tolist() == [1, 1, 1]
    grid = {"random_state": [0, 1]}
    found = GridSearchCV(quick, grid, cv=2).fit(texts, labels)
    assert found.best_estimator_.predict(texts).tolist() == labels


def test_frames_give_their_column(quick: TellClassifier, shapes: Callable[..., Any]) -> None:
    pandas = pytest.importorskip("pandas")
    texts, labels = shapes(range(24))
    frame = pandas.DataFrame({"text": texts, "label": labels})
    quick.fit(frame["text"], frame["label"])
    assert quick.predict(frame[["text"]]).tolist() == labels
    with pytest.raises(ValueError, match="X has 2 columns; give one column of texts"):
        quick.predict(frame)


def test_a_pickle_has_no_weights_and_needs_the_folder(
    quick: TellClassifier, shapes: Callable[..., Any], tmp_path: Path
) -> None:
    texts, labels = shapes(range(24))
    quick.fit(texts, labels)
    data = pickle.dumps(quick)
    assert len(data) < 2000
    assert pickle.loads(data).predict(texts).tolist() == labels
    quick.save(tmp_path / "kept")
    with pytest.raises(StorageError, match="exists"):
        quick.save(tmp_path / "kept")
    kept = pickle.dumps(quick)
    del quick  # and its temporary folder
    assert pickle.loads(kept).predict(texts).tolist() == labels
    loaded = TellClassifier.load(tmp_path / "kept")
    assert loaded.predict(texts).tolist() == labels
    assert telltune.predict(tmp_path / "kept", texts) == labels
    assert clone(loaded).get_params() == loaded.get_params()
    with pytest.raises(ModelError, match="give a folder of"):
        TellClassifier.load(tmp_path)


def test_a_searched_classifier_is_saved(
    quick: TellClassifier, shapes: Callable[..., Any], tmp_path: Path
) -> None:
    texts, labels = shapes(range(24))
    grid = {"random_state": np.arange(2), "progress": np.zeros(1, bool)}
    best = GridSearchCV(quick, grid, cv=2).fit(texts, labels).best_estimator_
    best.save(tmp_path / "kept")
    loaded = TellClassifier.load(tmp_path / "kept")
    assert loaded.get_params() == best.get_params()
    assert loaded.predict(texts).tolist() == labels
    assert telltune.verify(tmp_path / "kept").held


@pytest.mark.parametrize(
    ("changed", "classes", "message"),
    [
        ({"random_state": np.random.RandomState(0)}, list("ab"), "^random_state .* RandomState,"),
        ({"settings": {"task": {"max_examples": {8}}}}, list("ab"), "^settings .* type set,"),
        ({}, np.array(["2020", "2021"], "datetime64[ns]"), r"^classes_ .* type datetime64\[ns\],"),
    ],
)
def test_what_cannot_be_saved_is_named_and_leaves_no_folder(
    changed: Any, classes: Any, message: str, quick: TellClassifier, tmp_path: Path
) -> None:
    quick.fit(["one", "two"] * 4, np.array(classes)[[0, 1] * 4])
    with pytest.raises(StorageError, match=message):
        quick.set_params(**changed).save(tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


def test_the_temporary_folder_goes_with_its_classifier(
    tiny_model: Path, shapes: Callable[..., Any]
) -> None:
    classifier = TellClassifier(str(tiny_model), "tfidf_linear").fit(*shapes(range(24)))
    folder, data = classifier.folder_, pickle.dumps(classifier)
    assert folder.is_dir()
    del classifier
    assert not folder.parent.exists()
    with pytest.raises(ModelError, match="is gone: `save` a fitted classifier"):
        pickle.loads(data).predict(["item 3 is round"])


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ("one text", ["a"], "X is one text"),
        ([], [], "X has no texts"),
        (["a", 3], ["x", "y"], r"X\[1\] is of type int; give texts"),
        (["a", "b\ud800"], ["x", "y"], r"X\[1\] contains an unpaired surrogate at character 2"),
        (["a", "b"], ["x"], "inconsistent numbers of samples"),
        (["a", "b"], ["x", "x"], "y has one class only, `x`"),
        (["a", "b"], ["x", " x"], "are not different texts"),
        (["a", "b"], ["<think>x</think>y", "z"], "the class `<think>x</think>y` starts with"),
        (["a", "b"], ["[THINK]x[/THINK]y", "z"], "rename it"),
        (["a", "b"], [0.5, 1.5], "Unknown label type"),
        (["a", "b"], None, "requires y"),
        (["a", "b", "c"], ["x", None, "y"], r"y\[1\] is None; give a class"),
        (["a", "b", "c"], ["x", "y", float("nan")], r"y\[2\] is nan; give a class"),
    ],
)
def test_other_data_are_refused(X: Any, y: Any, message: str, quick: TellClassifier) -> None:  # noqa: N803
    with pytest.raises(ValueError, match=message):
        quick.fit(X, y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "embedded"}, "settings has `model`; give it as the parameter `model`"),
        ({"seed": 3}, "settings has `seed`; give it as the parameter `random_state`"),
        (["mixture.passes=1"], "settings is of type list; give a dict"),
    ],
)
def test_settings_are_recipe_keys_without_those_of_parameters(
    settings: Any, message: str, quick: TellClassifier
) -> None:
    with pytest.raises(ValueError, match=message):
        quick.set_params(settings=settings).fit(["a", "b"], ["x", "y"])
    quick.set_params(settings={"evaluation": None}).fit(["a", "b"], ["x", "y"])


def test_nothing_is_predicted_before_a_fit(quick: TellClassifier) -> None:
    with pytest.raises(NotFittedError):
        quick.predict(["item 3 is round"])


@pytest.mark.parametrize("method", ["tfidf_linear", "sft"])
def test_one_example_of_a_class_is_enough(method: str, quick: TellClassifier) -> None:
    texts = [f"word{i} it is" for i in range(15)]
    classes = [f"q{i:02}x" for i in range(15)]
    quick.set_params(method=method, settings={"mixture": {"passes": 1}}).fit(texts, classes)
    assert quick.classes_.tolist() == classes
    assert {*quick.predict(texts)} <= {*classes}
    if method == "tfidf_linear":
        assert quick.score(texts, classes) == 1


def test_a_listed_class_needs_no_example() -> None:
    texts = ["Where is my parcel?", "I was billed twice.", "Track a box", "Refund the invoice"]
    listed = {"task": {"labels": {"a": "shipping", "b": "billing", "c": "technical problem"}}}
    model = TellClassifier(method="encoder_centroid", settings=listed).fit(texts, list("abab"))
    assert model.classes_.tolist() == ["a", "b", "c"]
    assert model.predict(["The app crashes", "My parcel is late"]).tolist() == ["c", "a"]
    with pytest.raises(ValueError, match="y has numbers"):
        TellClassifier(
            method="encoder_centroid", settings={"task": {"labels": ["0", "1", "x"]}}
        ).fit(texts, [0, 1, 0, 1])
