"""Classifier of texts with the interface of scikit-learn."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from telltune.api import fit
from telltune.data.examples import Example
from telltune.data.fields import check_encodable
from telltune.data.thinking import without_thinking
from telltune.errors import ModelError, StorageError
from telltune.fitting.adapter_folder import ESTIMATOR
from telltune.fitting.baseline_folder import load_folder
from telltune.fitting.predictor import class_likelihoods
from telltune.proposal.recipe_of import recipe_for
from telltune.storage import atomic_folder, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from telltune.fitting.predictor import Predictor


class TellClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classifier of texts by an adapter or a baseline.

    It works with `clone`, `cross_val_score`, `GridSearchCV` and pipelines. The answers are always
    classes, with probabilities from the likelihoods of the labels.

    A fitted classifier is a folder of `fit`, at first a temporary one. A pickle contains the path
    of the folder and no weights. `save` keeps the folder.

    Args:
        model: Base model: `embedded`, a hub id, or a folder.
        method: Name of a method that fits, such as `tell`, `sft` or `tfidf_linear`.
        anchor: Text that says what to do with each input; by default it is guessed.
        general: General data as in a recipe, or None.
        settings: Other recipe keys, such as `{"mixture": {"passes": 5}}`.
        random_state: Seed of the recipe.
        progress: Whether to show progress bars.

    Attributes:
        classes_: Classes, sorted, (classes,); those of `y` and of `task.labels` in the settings.
        folder_: Folder with the adapter or baseline.

    Examples:
        >>> texts = ["Where is my parcel?", "I was billed twice."] * 4
        >>> teams = ["shipping", "billing"] * 4
        >>> classifier = telltune.TellClassifier(method="tfidf_linear").fit(texts, teams)
        >>> classifier.predict(["My parcel is late."]).tolist()
        ['shipping']
    """

    def __init__(
        self,
        model: str = "embedded",
        method: str = "tell",
        *,
        anchor: str | None = None,
        general: Any = "embedded",
        settings: Mapping[str, Any] | None = None,
        random_state: Any = 0,
        progress: bool = False,
    ) -> None:
        self.model = model
        self.method = method
        self.anchor = anchor
        self.general = general
        self.settings = settings
        self.random_state = random_state
        self.progress = progress

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803 - the names of scikit-learn
        """Fit on texts and their classes.

        Args:
            X: Texts, (examples,): a list, an array, or a column of a frame.
            y: Classes, (examples,).

        Raises:
            ValueError: X are no texts, or y are no classes.
            TellError: The model or a setting cannot be used.

        Examples:
            >>> texts, teams = ["Where is it?", "Pay me back."] * 4, ["shipping", "billing"] * 4
            >>> telltune.TellClassifier(method="tfidf_linear").fit(texts, teams).classes_.tolist()
            ['billing', 'shipping']
        """
        if y is None:
            raise ValueError("TellClassifier requires y to be passed, but the target y is None.")
        # A list with texts and NaN would become texts.
        for number, value in enumerate(np.asarray(y, object).ravel().tolist()):
            if value is None or value != value:
                raise ValueError(f"y[{number}] is {value}; give a class for each text.")
        texts, y = _texts(X), column_or_1d(y, warn=True)
        check_consistent_length(texts, y)
        check_classification_targets(y)
        classes, numbers = np.unique(y, return_inverse=True)
        names = _names(classes)
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        settings = _settings(self.settings)
        keys = {"general": self.general, "seed": int(seed)} | settings
        keys["evaluation"] = (settings.get("evaluation") or {}) | {"answers": "likelihood"}
        if self.anchor is not None:
            keys["anchor"] = self.anchor
        rows = [
            {"prompt": text, "completion": names[number]}
            for text, number in zip(texts, numbers, strict=True)
        ]
        recipe = recipe_for(rows, model=self.model, method=self.method, **keys)
        if recipe.task.labels is None:  # y has all classes, also if many have one example.
            listed = recipe.task.model_copy(update={"labels": dict.fromkeys(names, "")})
            recipe = recipe.model_copy(update={"task": listed})
        # Classifiers know listed labels without examples, too.
        more = [label for label in recipe.task.labels or () if label not in names]
        if more:
            if classes.dtype.kind not in "OU":
                raise ValueError(f"y has numbers, but `task.labels` lists {more[0]!r}.")
            classes = np.unique([*classes.tolist(), *more])
        temporary = tempfile.mkdtemp(prefix="telltune-")
        weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)
        self.folder_ = fit(recipe, Path(temporary) / "fitted", progress=self.progress).folder
        self.classes_ = classes
        self._predictor: Predictor | None = load_folder(self.folder_)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Return the probability of each class, (examples, classes), in the order of `classes_`.

        Examples:
            >>> texts, teams = ["Where is it?", "Pay me back."] * 4, ["shipping", "billing"] * 4
            >>> classifier = telltune.TellClassifier(method="tfidf_linear").fit(texts, teams)
            >>> classifier.predict_proba(["Where?"]).sum().round(6).tolist()
            1.0
        """
        check_is_fitted(self)
        predictor = self._loaded()
        examples = [Example(text, "") for text in _texts(X)]
        answers, scores = predictor.label_scores(examples)
        said = np.char.strip(answers)
        return class_likelihoods(
            scores, [np.flatnonzero(said == name) for name in _names(self.classes_)]
        )

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the most likely class of each text, (examples,).

        Examples:
            >>> texts, teams = ["Where is it?", "Pay me back."] * 4, ["shipping", "billing"] * 4
            >>> classifier = telltune.TellClassifier(method="tfidf_linear").fit(texts, teams)
            >>> classifier.predict(["Where?", "Pay!"]).tolist()
            ['shipping', 'billing']
        """
        check_is_fitted(self)
        chosen: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return chosen

    def save(self, folder: str | Path) -> None:
        """Keep the fitted classifier in a folder, which other functions of telltune read, too.

        Raises:
            StorageError: The folder exists or cannot be written, or a parameter cannot be saved.

        Examples:
            >>> texts, teams = ["Where is it?", "Pay me back."] * 4, ["shipping", "billing"] * 4
            >>> telltune.TellClassifier(method="tfidf_linear").fit(texts, teams).save("runs/teams")
            >>> telltune.TellClassifier.load("runs/teams").predict(["Where?"]).tolist()
            ['shipping']
        """
        check_is_fitted(self)
        folder = Path(folder)
        if folder.exists():
            raise StorageError(f"{folder} exists; choose another folder.")
        self._loaded()  # to save no folder that is gone or damaged
        parameters = {name: _as_json(name, value) for name, value in self.get_params().items()}
        told = {"parameters": parameters, "classes": _as_json("classes_", self.classes_)}
        with atomic_folder(folder) as filling:
            shutil.copytree(self.folder_, filling, dirs_exist_ok=True)
            write_json(filling / ESTIMATOR, told)
        self.folder_ = folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Return a fitted classifier from a folder of `save`.

        Raises:
            ModelError: The folder is not one of `save`.

        Examples:
            >>> texts, teams = ["Where is it?", "Pay me back."] * 4, ["shipping", "billing"] * 4
            >>> telltune.TellClassifier(method="tfidf_linear").fit(texts, teams).save("runs/kept")
            >>> telltune.TellClassifier.load("runs/kept").method
            'tfidf_linear'
        """
        path = Path(folder) / ESTIMATOR
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            found = cls(**told["parameters"])
            found.classes_ = np.array(told["classes"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{path} cannot be read ({error}): give a folder of `TellClassifier.save`."
            ) from None
        found.folder_ = Path(folder)
        found._predictor = load_folder(found.folder_)
        return found

    def _loaded(self) -> Predictor:
        if self._predictor is None:
            if not self.folder_.exists():
                raise ModelError(
                    f"{self.folder_} is gone: `save` a fitted classifier to use it in another "
                    "process, or fit it again."
                )
            self._predictor = load_folder(self.folder_)
        return self._predictor

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return state | {"_predictor": None} if "_predictor" in state else state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.no_validation = True  # Texts have no number of features.
        return tags


def _settings(given: Any) -> dict[str, Any]:
    """Return recipe keys as a dict.

    Raises:
        ValueError: They are no mapping, or contain what is a parameter of the classifier.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(
            f"settings is of type {type(given).__name__}; give a dict of recipe keys, such as "
            '{"mixture": {"passes": 5}}.'
        )
    settings = dict(given or {})
    for key in ("model", "method", "general", "anchor", "seed"):
        if key in settings:
            parameter = "random_state" if key == "seed" else key
            raise ValueError(f"settings has `{key}`; give it as the parameter `{parameter}`.")
    return settings


def _as_json(name: str, value: Any) -> Any:
    """Return a parameter or the classes as JSON can contain them, without NumPy types.

    Raises:
        StorageError: A value is neither text nor a number.
    """

    def plain(inner: object) -> object:
        if isinstance(inner, np.generic | np.ndarray) and inner.dtype.kind in "biufUO":
            return inner.tolist()
        if isinstance(inner, Path):
            return str(inner)
        kind = getattr(inner, "dtype", type(inner).__name__)
        raise StorageError(
            f"{name} contains a value of type {kind}, which cannot be saved: give texts, numbers, "
            "lists and dicts, and data by path."
        )

    return json.loads(json.dumps(value, default=plain))


def _names(classes: NDArray[Any]) -> list[str]:
    """Return the classes as answers.

    Raises:
        ValueError: There is only one class, two have the same text, or one starts with thinking.
    """
    names = [str(value).strip() for value in classes.tolist()]
    if len(names) < 2:
        raise ValueError(f"y has one class only, `{names[0]}`; give at least two.")
    if len(set(names)) < len(names) or "" in names:
        raise ValueError(f"the classes {names} are not different texts; rename them.")
    for name in names:
        if without_thinking(name) != name:
            raise ValueError(
                f"the class `{name}` starts with thinking, which is no answer; rename it."
            )
    return names


def _texts(data: Any) -> list[str]:
    """Return texts of a list, of an array or of a frame with one column.

    Raises:
        ValueError: The data are of another kind.
    """
    if isinstance(data, str):
        raise ValueError("X is one text; give a list of texts.")
    if len(getattr(data, "shape", (0,))) == 2:
        if data.shape[1] != 1:
            raise ValueError(f"X has {data.shape[1]} columns; give one column of texts.")
        data = np.asarray(data)[:, 0]
    texts = list(data)
    if not texts:
        raise ValueError("X has no texts; give at least one.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"X[{number}] is of type {type(text).__name__}; give texts.")
        check_encodable(text, f"X[{number}]")
    return [str(text) for text in texts]
