"""The verbs take data in Python wherever they take a recipe or a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

import telltune
from telltune.errors import DataError, RecipeError, StorageError
from telltune.research.quanta.analysis import quanta

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")

BASELINE = {"method": "tfidf_linear", "general": None, "anchor": None}


@pytest.fixture
def shapes(toy_rows: Callable[..., Any]) -> Callable[[range], list[dict[str, str]]]:
    """Return a function that makes rows whose columns must be guessed."""

    def rows(numbers: range) -> list[dict[str, str]]:
        named = {"prompt": "body", "completion": "team"}
        return [{named[key]: text for key, text in row.items()} for row in toy_rows(numbers)]

    return rows


@pytest.fixture
def fitted(tiny_model: Path, shapes: Callable[..., Any], tmp_path: Path) -> Path:
    """Return the folder of a baseline that was fitted on a frame."""
    frame = pandas.DataFrame(shapes(range(24)))
    recipe = telltune.recipe_for(frame, model=str(tiny_model), **BASELINE)
    return telltune.fit(recipe, tmp_path / "fitted", progress=False).folder


def test_a_frame_is_trained_on_and_the_guesses_are_told(
    tiny_model: Path, shapes: Callable[..., Any], tmp_path: Path
) -> None:
    settings = {"model": str(tiny_model), "general": None, "method": "sft"}
    recipe = telltune.recipe_for(
        {"train": polars.DataFrame(shapes(range(24))), "test": shapes(range(24, 30))},
        mixture={"passes": 1},
        **settings,
    )
    assert recipe.task.train is not None
    assert recipe.task.train[0].columns is not None
    assert recipe.anchor is not None
    assert recipe.anchor.prompt.endswith("nothing else: ball, box, sheet.")
    fitted = telltune.fit(recipe, tmp_path / "out", progress=False)
    assert fitted.record["data"]["task"]["name"] == "frame"
    assert fitted.guessed == ""
    assert telltune.verify(fitted.folder).held is True
    assert telltune.evaluate(fitted.folder, progress=False).items == 6


def test_fit_guesses_settings_for_rows(
    shapes: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = []
    rows = shapes(range(24))

    class StopError(Exception):
        pass

    def stop(recipe: Any) -> None:
        planned.append(recipe)
        raise StopError

    monkeypatch.setattr("telltune.api.check_run", stop)  # the embedded model takes long to load
    with pytest.raises(StopError):
        telltune.fit(rows, tmp_path / "out", columns={"prompt": "body", "completion": "team"})
    assert planned[0].model.name == "embedded"
    assert planned[0].task.train[0].columns.prompt == "body"


def test_a_recipe_in_a_dictionary_may_hold_rows(
    tiny_model: Path, toy_rows: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = {
        "model": str(tiny_model),
        "task": {"train": pandas.DataFrame(toy_rows(range(24))), "test": toy_rows(range(24, 30))},
        "method": "tfidf_linear",
    }
    folder = telltune.fit(recipe, tmp_path / "out", progress=False).folder
    assert telltune.evaluate(folder, progress=False).items == 6


def test_every_verb_takes_such_a_recipe(
    tiny_model: Path, toy_rows: Callable[..., Any], tmp_path: Path
) -> None:
    rows = toy_rows(range(24))
    recipe: dict[str, Any] = {
        "model": str(tiny_model),
        "task": {"train": polars.DataFrame(rows), "test": rows[:6]},
        "general": rows,
    }
    [row] = telltune.compare(recipe, ["tfidf_linear"], out=tmp_path / "c", progress=False)
    assert row.items == 6
    # The others read the recipe, and then refuse a setting or the folder.
    perplexity = {"evaluation": {"metrics": ["perplexity"]}}
    with pytest.raises(RecipeError, match="a search needs a metric"):
        telltune.recommend(recipe | perplexity, tmp_path / "r", progress=False)
    for verb in (telltune.score_examples, telltune.write_synthetic, quanta):
        with pytest.raises(StorageError, match="contains files that telltune did not write"):
            verb(recipe, out=tmp_path, progress=False)


def test_items_are_scored_with_the_columns_of_the_training_data(
    fitted: Path, shapes: Callable[..., Any], tmp_path: Path
) -> None:
    rows = shapes(range(24, 36))
    path = tmp_path / "rows.csv"
    pandas.DataFrame(rows).to_csv(path, index=False)
    for items in (rows, polars.DataFrame(rows), path, str(path), {"test": rows}):
        scored = telltune.evaluate(fitted, items, progress=False)
        assert scored.items == 12
        assert scored.headline[1].score == 100


def test_a_text_has_one_answer_and_data_have_one_each(
    fitted: Path, shapes: Callable[..., Any], tmp_path: Path
) -> None:
    assert telltune.predict(fitted, "item 3 is round") == "ball"
    rows = shapes(range(3))
    path = tmp_path / "rows.csv"
    pandas.DataFrame(rows).to_csv(path, index=False)
    inputs = [{"body": row["body"]} for row in rows]
    turns = [[{"role": "user", "content": row["body"]}] for row in rows]
    texts = [row["body"] for row in rows]
    for given in (texts, inputs, turns, rows, pandas.DataFrame(inputs), polars.from_dicts(rows)):
        assert telltune.predict(fitted, given) == ["ball", "box", "sheet"]
    assert telltune.predict(fitted, path) == ["ball", "box", "sheet"]
    assert telltune.predict(fitted, turns[1]) == ["box"]
    for column in (np.array(texts), pandas.Series(texts), polars.Series(texts)):
        assert telltune.predict(fitted, column) == ["ball", "box", "sheet"]
    assert telltune.predict(fitted, []) == []
    for kind, missing in (("NoneType", None), ("float", float("nan")), ("dict", {})):
        with pytest.raises(DataError, match=f"^list:2: the input is of type {kind}, but others"):
            telltune.predict(fitted, ["item 3 is round", missing])
    with pytest.raises(DataError, match="data of type Series cannot be read: give a path"):
        telltune.check(pandas.Series(texts))


def test_frames_without_a_text_column_are_refused_in_one_sentence(
    fitted: Path, tmp_path: Path
) -> None:
    frame = pandas.DataFrame({"price": [1.5], "size": [3]})
    refusals = []
    for call in (
        lambda: telltune.fit(frame, tmp_path / "out"),
        lambda: telltune.evaluate(fitted, frame, progress=False),
        lambda: telltune.predict(fitted, frame),
    ):
        with pytest.raises(DataError) as refused:
            call()
        refusals.append(str(refused.value))
    assert all(text.startswith("frame") and text.endswith(".") for text in refusals)
    assert all("`price`, `size`" in text and ". " not in text for text in refusals)
    assert refusals[2] == (
        "frame:1: no column `body`, as set in the recipe; the columns are `price`, `size`."
    )
    assert refusals[0] == (
        "frame: no column has texts in most rows (the columns are `price`, `size`); give data with "
        "a prompt and an answer in each row."
    )
    assert not (tmp_path / "out").exists()


def test_rows_are_checked(tiny_model: Path, shapes: Callable[..., Any], tmp_path: Path) -> None:
    rows = shapes(range(3))
    columns = {"prompt": "body", "completion": "team"}
    found = telltune.check({"train": rows, "test": pandas.DataFrame(rows[:1])}, columns=columns)
    assert found.counts == {"train": 3, "test": 1}
    assert [(f.file, f.line, f.kind) for f in found.findings] == [("list", 1, "leak_exact")]
    telltune.write_recipe(rows * 8, tmp_path, columns=columns, model=str(tiny_model))
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["task"]["train"]


def test_a_check_guesses_the_columns_that_a_fit_guesses(
    shapes: Callable[..., Any], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    rows = shapes(range(12))
    guessed = telltune.recipe_for(rows, general=None).task.train
    assert guessed is not None
    assert guessed[0].columns is not None
    names = f"{guessed[0].columns.prompt} → {guessed[0].columns.completion}"
    assert names == "body → team"
    found = telltune.check(pandas.DataFrame(rows))
    assert (found.counts, found.findings) == ({"train": 12}, [])
    assert found.guessed == f"The columns {names} of frame are guessed."
    assert found.guessed in found.tables()[0].title
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    told = telltune.check({"train": [path], "test": shapes(range(12, 16))})
    assert told.counts == {"train": 12, "test": 4}
    assert told.guessed == f"The columns {names} of {path}, list are guessed."
    assert telltune.check([{"prompt": "a", "completion": "b"}]).guessed == ""


def test_a_recipe_names_its_own_columns(toy_recipe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="a recipe names the columns of its own data"):
        telltune.fit(toy_recipe, tmp_path, columns={"prompt": "a", "completion": "b"})
