"""A saved baseline gives the same answers, and a damaged folder is refused by name."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.sparse import issparse

import telltune
from telltune.data.anchor import Anchor
from telltune.data.examples import Example, Message
from telltune.data.task import load_split, load_task
from telltune.errors import ModelError, RecipeError
from telltune.fitting.adapter_folder import read_tell
from telltune.fitting.baseline_folder import BASELINE, load_folder
from telltune.fitting.predictor import BaselinePredictor
from telltune.fitting.protocol import Settings
from telltune.methods.registry import get_method
from telltune.models import load_tokenizer
from telltune.recipe import as_recipe
from telltune.storage import checksum
from telltune.verification import Verification, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BASELINES = (
    *(
        "tfidf_linear",
        "tfidf_em",
        "encoder_linear",
        "encoder_centroid",
        "encoder_em",
        "combined_em",
        "chosen_em",
    ),
    *("knn", "probe"),
)


@pytest.fixture
def baseline_recipe(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    task = toy_recipe["task"] | {"max_examples": 18, "unlabeled": "rest"}
    return toy_recipe | {"method": "tfidf_em", "task": task}


@pytest.fixture
def fitted(baseline_recipe: dict[str, Any], tmp_path: Path) -> Path:
    telltune.fit(baseline_recipe, tmp_path / "out", progress=False)
    return tmp_path / "out"


@pytest.fixture(scope="module")
def fitted_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fitted") / "out"


@pytest.fixture
def copied(fitted_once: Path, baseline_recipe: dict[str, Any], tmp_path: Path) -> Path:
    """Return a copy of a folder whose data are those of another test."""
    if not fitted_once.exists():
        telltune.fit(baseline_recipe, fitted_once, progress=False)
    return shutil.copytree(fitted_once, tmp_path / "copied")


@pytest.mark.parametrize("name", BASELINES)
def test_a_loaded_baseline_gives_the_same_scores_and_answers(
    name: str, baseline_recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe = as_recipe(baseline_recipe | {"method": name})
    settings = Settings(recipe, tmp_path / "out")
    in_memory = get_method(name).fit(load_task(recipe), load_tokenizer(recipe.model), settings)
    loaded = load_folder(tmp_path / "out")
    assert isinstance(loaded, BaselinePredictor)
    assert loaded.model is None
    assert loaded.labels == in_memory.labels
    assert loaded.counts() == in_memory.counts()
    texts = ["item 50 is flat", "is it round?", "nothing known", "square square ball", ""]
    saved, made = loaded.classifier, in_memory.classifier
    assert saved.scorer.answers == made.scorer.answers
    for one, other in zip(
        (saved.scorer.weights, saved.scorer.bias, saved.vectorize(texts)),
        (made.scorer.weights, made.scorer.bias, made.vectorize(texts)),
        strict=True,
    ):
        assert one.dtype == other.dtype
        one, other = (x.toarray() if issparse(x) else x for x in (one, other))
        np.testing.assert_array_equal(one, other)
    turns = Example("and now?", "", history=(Message("user", "it is flat"),))
    asked = [*load_split(recipe, "test"), *(Example(text, "") for text in texts), turns]
    assert loaded.predict(asked) == in_memory.predict(asked)


@pytest.mark.parametrize("method", ["tfidf_linear", "probe", "sft", "mix", "sft_anchor"])
def test_prompts_with_the_anchor_are_asked_without_it_as_in_training(
    method: str, toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    changes = {"method": method, "mixture": {"leverage_ratio": 1.0, "passes": 1}}
    telltune.fit(toy_recipe | changes, tmp_path / "out", progress=False)
    predictor = load_folder(tmp_path / "out")
    bare = [Example(f"item {n} is flat", "") for n in range(8)]
    anchored = [Anchor("Name the shape, nothing else.").attach(example) for example in bare]
    assert predictor.predict(anchored) == predictor.predict(bare)
    np.testing.assert_array_equal(
        predictor.label_scores(anchored)[1], predictor.label_scores(bare)[1]
    )
    if predictor.model is not None:
        assert predictor.prompt_ids(anchored) == predictor.prompt_ids(bare)


def test_the_folder_holds_weights_a_tokenizer_and_what_they_were_made_of(
    fitted: Path, baseline_recipe: dict[str, Any]
) -> None:
    names = {path.name for path in fitted.iterdir()}
    assert names >= {BASELINE, "tell.json", "README.md", "recipe.yaml", "tokenizer.json"}
    assert not any(name.startswith(".") for name in names)
    record = read_tell(fitted)
    assert record["method"] == "tfidf_em"
    assert record["labels"] == record["baseline"]["answers"] == ["ball", "box", "sheet"]
    assert "flat" in record["baseline"]["features"]["vocabulary"]
    assert record["counts"]["task_examples"] == 18
    assert record["counts"]["optimizer_steps"] == 0
    assert as_recipe(record["recipe"]) == as_recipe(baseline_recipe)
    assert "scikit-learn" in record["versions"]
    assert "tell predict . --file inputs.jsonl" in (fitted / "README.md").read_text()


def test_a_baseline_is_fitted_and_loaded_without_the_base_models_weights(
    baseline_recipe: dict[str, Any], tmp_path: Path, tiny_model: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_model.iterdir():
        if path.suffix != ".safetensors":
            (base / path.name).write_bytes(path.read_bytes())
    telltune.fit(baseline_recipe | {"model": str(base)}, tmp_path / "out", progress=False)
    for path in base.iterdir():
        path.unlink()
    # Answers do not need the base either.
    assert telltune.predict(tmp_path / "out", ["item 7 is flat"]) == ["sheet"]


def test_evaluate_scores_a_baseline_and_keeps_the_scores_in_its_card(fitted: Path) -> None:
    found = telltune.evaluate(fitted, progress=False)
    assert found.headline[0] == "accuracy"
    assert found.headline[1].score == 100
    assert "| accuracy | 100.0 |" in (fitted / "README.md").read_text()
    with pytest.raises(RecipeError, match="no perplexity"):
        telltune.evaluate(fitted, metrics=["perplexity"], progress=False)


def test_answers_of_a_baseline_cannot_be_cut(copied: Path) -> None:
    with pytest.raises(RecipeError, match=r"is a baseline, .* leave out max_new_tokens"):
        telltune.predict(copied, ["item 7 is flat"], max_new_tokens=1)


def test_a_fit_goes_on_after_a_kill_and_never_over_a_finished_one(
    fitted: Path, baseline_recipe: dict[str, Any]
) -> None:
    with pytest.raises(telltune.TellError, match="contains a finished run"):
        telltune.fit(baseline_recipe, fitted, progress=False)
    (fitted / "tell.json").unlink()
    with pytest.raises(ModelError, match="not a finished output"):
        load_folder(fitted)
    telltune.fit(baseline_recipe, fitted, progress=False)
    assert telltune.predict(fitted, ["item 7 is flat"]) == ["sheet"]


def change_arrays(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the arrays, and update their hashes in tell.json."""
    arrays = load_file(folder / BASELINE)
    change(arrays)
    save_file(arrays, folder / BASELINE)
    change_record(folder, lambda r: r["files"].update({BASELINE: checksum(folder / BASELINE)}))


def change_record(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = read_tell(folder)
    change(record)
    (folder / "tell.json").write_text(json.dumps(record))


def put_garbage(folder: Path) -> None:
    (folder / BASELINE).write_bytes(b"garbage")
    change_record(folder, lambda r: r.pop("files"))


def features(record: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = record["baseline"]["features"]
    return found


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (
        lambda f: (f / BASELINE).unlink(),
        r"baseline\.safetensors is missing; restore it, or fit again",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
    "other weights": (
        lambda f: save_file({"weights": np.zeros(3)}, f / BASELINE),
        r"baseline\.safetensors is damaged",
    ),
    "weights that are none": (put_garbage, "do not fit together"),
    "an array too few": (
        lambda f: change_arrays(f, lambda arrays: arrays.pop("bias")),
        "lack 'bias'",
    ),
    "too many rows": (
        lambda f: change_arrays(f, lambda a: a.update(weights=np.repeat(a["weights"], 2, axis=0))),
        r"do not fit together: weights \(6, ",
    ),
    "an answer too few": (
        lambda f: change_record(f, lambda r: r["baseline"]["answers"].pop()),
        "for 2 answers",
    ),
    "a word too few": (
        lambda f: change_record(f, lambda r: features(r)["vocabulary"].pop()),
        "words but idf of shape",
    ),
    "a word that comes twice": (
        lambda f: change_record(f, lambda r: features(r)["vocabulary"].__setitem__(1, "flat")),
        "words but idf of shape",
    ),
    "no features": (lambda f: change_record(f, lambda r: r["baseline"].pop("features")), "lack"),
    "unknown features": (
        lambda f: change_record(f, lambda r: features(r).update(kind="smell")),
        r"has features `smell`, which this version of telltune does not support",
    ),
    "another encoder": (
        lambda f: change_record(f, lambda r: features(r).update(kind="encoder", revision="0" * 16)),
        r"another sentence encoder \(0000",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_sentence(what: str, copied: Path) -> None:
    spoil, said = DAMAGE[what]
    spoil(copied)
    with pytest.raises(ModelError, match=said) as found:
        load_folder(copied)
    assert str(copied) in str(found.value)
    assert "\n" not in str(found.value)


def differing(found: Verification) -> set[str]:
    return {check.what for check in found.checks if check.held is False}


def test_verify_holds_a_baseline_against_its_tell_json(
    fitted: Path, toy_task: dict[str, Path]
) -> None:
    found = verify(fitted)
    assert [check for check in found.checks if check.held is not True] == []
    assert found.notes == ()
    assert {check.what for check in found.checks} >= {BASELINE, "task data", "counts", "answers"}
    change_record(fitted, lambda r: r["baseline"]["answers"].__setitem__(0, "cube"))
    assert differing(verify(fitted)) == {"answers"}
    change_record(fitted, lambda r: r["baseline"]["answers"].pop())
    assert differing(verify(fitted)) == {"weights and answers", "answers"}
    lines = toy_task["train"].read_text().splitlines(keepends=True)
    toy_task["train"].write_text("".join(lines[:-3]))
    assert differing(verify(fitted)) >= {"task data", "counts"}
    toy_task["train"].unlink()
    assert "no file or folder" in next(
        check.reason for check in verify(fitted).checks if check.what == "task data"
    )


def test_compare_leaves_a_folder_that_answers_as_it_was_scored(
    toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    telltune.compare(toy_recipe, ["knn"], out=tmp_path / "out", progress=False)
    lines = (tmp_path / "out" / "predictions" / "knn.jsonl").read_text().splitlines()
    said = [json.loads(line) for line in lines]
    answers = telltune.predict(tmp_path / "out" / "knn", [row["prompt"] for row in said])
    assert answers == [row["prediction"] for row in said]
    assert verify(tmp_path / "out" / "knn").held is True
    assert "| accuracy |" in (tmp_path / "out" / "knn" / "README.md").read_text()


def test_a_baselines_plan_trains_nothing_and_costs_what_the_fit_costs(
    baseline_recipe: dict[str, Any], fitted: Path
) -> None:
    planned = telltune.plan(baseline_recipe)
    counts = read_tell(fitted)["counts"]
    assert {name: planned[name] for name in counts} == counts
    assert (planned["trained_tokens"], planned["labels"]) == (0, ["ball", "box", "sheet"])
    for split in ("train", "test"):
        with pytest.raises(RecipeError, match="no tokens to show"):
            telltune.show(baseline_recipe, split=split)


def test_names_of_labels_alone_fit_a_classifier(
    toy_recipe: dict[str, Any], toy_task: dict[str, Path], tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in toy_task["train"].read_text().splitlines()]
    inputs = tmp_path / "inputs.jsonl"
    inputs.write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in rows))
    task = {
        "labels": {"sheet": "item is flat", "ball": "item is round", "box": "item is square"},
        "unlabeled": str(inputs),
        "test": str(toy_task["test"]),
    }
    recipe = toy_recipe | {"task": task, "method": "tfidf_em"}
    assert telltune.plan(recipe)["task_examples"] == 0
    telltune.fit(recipe, tmp_path / "out", progress=False)
    assert verify(tmp_path / "out").held is True
    assert telltune.evaluate(tmp_path / "out", progress=False).scores["accuracy"].score == 100.0
    for method in ("sft", "knn"):
        with pytest.raises(RecipeError, match="labeled examples"):
            telltune.fit(recipe | {"method": method}, tmp_path / method, progress=False)
    with pytest.raises(RecipeError, match="no labeled examples"):
        telltune.compare(recipe, out=tmp_path / "compared", progress=False)
    with pytest.raises(RecipeError, match="either `train`"):
        telltune.plan(recipe | {"task": {"test": str(toy_task["test"])}})


@pytest.mark.parametrize("key", ["recipe", "labels", "counts", "files", "baseline", "versions"])
@pytest.mark.parametrize("value", [None, 3])
def test_a_damaged_key_of_tell_json_is_named(copied: Path, key: str, value: Any) -> None:
    (copied / "tell.json").write_text(json.dumps(read_tell(copied) | {key: value}))
    verbs = (lambda: telltune.predict(copied, "a"), lambda: verify(copied))
    for verb in (*verbs, lambda: telltune.evaluate(copied, progress=False)):
        with pytest.raises(ModelError, match=rf"tell\.json cannot be read: .*{key}.*\.$"):
            verb()
