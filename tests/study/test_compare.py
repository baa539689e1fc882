"""Compared methods use the same task tokens, and none affects the next."""

import json
import shutil
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest

from telltune.errors import DataError, RecipeError, StorageError
from telltune.methods.base import BASE_ANCHOR
from telltune.recipe import recipe_from_dict
from telltune.study.compare import ComparisonRow, FailedMethodsError, compare, default_methods
from telltune.valuation import embeddings
from telltune.verification import verify


@pytest.fixture
def recipe(toy_recipe):
    """Return a function that builds a recipe.

    By default it has no general data: measuring forgetting takes longer than training.
    """

    def build(**changes):
        short = {"general": None, "mixture": {"passes": 1}}
        return recipe_from_dict(toy_recipe | short | changes)

    return build


@pytest.fixture
def mixing(toy_recipe):
    """Return the keys of general data."""
    return {key: toy_recipe[key] for key in ("general", "mixture")}


def test_trained_methods_use_the_same_task_tokens(recipe, mixing, tmp_path):
    out = tmp_path / "study"
    rows = compare(recipe(**mixing), out=out, progress=False)
    assert [row.method for row in rows] == default_methods(recipe(**mixing))
    base, words, encoder, sft, sft_anchor, tell, product = rows
    assert (words.method, encoder.method) == ("tfidf_linear", "encoder_centroid")
    assert words.task_tokens == encoder.task_tokens == tell.task_tokens
    assert sft.task_tokens == sft_anchor.task_tokens == tell.task_tokens > 0
    assert (base.task_tokens, base.general_tokens, base.seconds) == (0, 0, 0)
    assert sft.general_tokens == sft_anchor.general_tokens == 0
    assert tell.general_tokens == pytest.approx(tell.task_tokens, rel=0.05)
    assert {row.items for row in rows} == {12}
    # Three answers to twelve items are labels.
    assert {row.metric for row in rows} == {"accuracy"}
    assert json.loads((out / "summary.json").read_text()) == [vars(row) for row in rows]
    assert (sft.difference, sft.p_value) == (None, None)
    for row in (base, words, encoder, sft_anchor, tell, product):
        assert row.difference == pytest.approx(row.score - sft.score, abs=0.002)
        assert -100 <= row.difference_low <= row.difference <= row.difference_high <= 100
        assert 0 < row.p_value <= 1
    # Twelve items and three labels: leakage into general prompts can be measured.
    models = (base, sft, sft_anchor, tell)
    assert all(row.general_loss > 0 and 0 <= row.leakage <= 1 for row in models)
    assert base.drift == 0
    assert all(row.drift > 0 for row in (sft, sft_anchor, tell))
    # TELL also trained on general data, the others did not.
    assert tell.general_loss < min(base.general_loss, sft.general_loss, sft_anchor.general_loss)


def test_each_score_is_printed_when_it_is_known(recipe, tmp_path, capsys):
    methods = ["base", "tfidf_linear"]
    rows = compare(recipe(), methods, out=tmp_path / "a")
    lines = [line for line in capsys.readouterr().err.splitlines() if ": accuracy " in line]
    wanted = [f"{row.method}: accuracy {row.score:.1f}, " for row in rows]
    assert [line[: len(text)] for line, text in zip(lines, wanted, strict=True)] == wanted
    compare(recipe(), methods, out=tmp_path / "b", progress=False)
    assert capsys.readouterr().err == ""


def test_a_comparison_has_the_baselines_that_suit_the_answers(
    recipe, mixing, toy_recipe, write_jsonl, tmp_path
):
    task = toy_recipe["task"]
    more = recipe(**mixing, task=task | {"max_examples": 9, "unlabeled": "rest"})
    assert default_methods(more) == [
        *("base", "tfidf_linear", "tfidf_em", "encoder_centroid", "encoder_em", "combined_em"),
        *("chosen_em", "sft", "sft_anchor", "tell", "tell_product", "tell_pseudo_label"),
    ]
    rows = [{"prompt": f"item {i}", "completion": f"answer {i}"} for i in range(8)]
    free = recipe(task={"train": str(write_jsonl(tmp_path / "free.jsonl", rows))})
    assert default_methods(free)[:2] == ["base", "knn"]
    scored = recipe(**mixing, evaluation={"metrics": ["perplexity"]})
    assert default_methods(scored) == ["base", "sft", "sft_anchor", "tell"]


@pytest.mark.parametrize(
    ("lacking", "left_out"),
    [(["anchor"], ["sft_anchor", "tell"]), (["general"], ["tell"])],
)
def test_what_the_recipe_cannot_run_is_left_out_by_default_and_named(
    recipe, mixing, toy_recipe, tmp_path, caplog, lacking, left_out
):
    task = toy_recipe["task"] | {"max_examples": 9, "unlabeled": "rest"}
    less = recipe(**mixing | {"task": task} | dict.fromkeys(lacking))
    names = default_methods(less)
    assert not {"tell", "tell_product", "tell_pseudo_label"} & {*names}
    assert ("sft_anchor" in names) == (lacking == ["general"])
    assert names[-2:] == ["sft_product", "sft_pseudo_label"]
    for name in left_out:
        assert f"Left out: method `{name}` needs" in caplog.text
    every = recipe(task=task | {"unlabeled": task["train"], "max_examples": None})
    assert default_methods(every) == [
        *("base", "tfidf_linear", "encoder_centroid", "sft", "sft_anchor", "sft_product")
    ]


def test_a_comparison_runs_without_anchor_and_general_data(recipe, tmp_path):
    rows = compare(recipe(anchor=None), out=tmp_path / "out", progress=False)
    assert [row.method for row in rows][-2:] == ["sft", "sft_product"]


@pytest.mark.parametrize("full_parameters", [False, True], ids=["LoRA", "full parameters"])
def test_each_method_gets_the_base_as_it_was(recipe, toy_recipe, tmp_path, full_parameters):
    changed = recipe(
        # Perplexity has many digits, so a changed weight would show.
        evaluation={"metrics": ["perplexity"]},
        training=toy_recipe["training"] | {"full_parameters": full_parameters},
    )
    untrained = compare(changed, ["base", "base_anchor"], out=tmp_path / "a", progress=False)
    methods = ["sft", "sft_anchor", "base", "base_anchor", "sft"]
    sft, sft_anchor, *after = compare(changed, methods, out=tmp_path / "b", progress=False)
    scores = [row.score for row in untrained]
    assert [row.score for row in after] == scores
    assert len({sft.score, sft_anchor.score, *scores}) == 4
    assert sft_anchor.score < scores[1]


def test_predictions_are_one_line_an_item_with_scores(recipe, tmp_path, toy_task):
    out = tmp_path / "study"
    changed = recipe(evaluation={"metrics": ["exact_match", "token_f1"], "max_items": 5})
    [base, sft] = compare(changed, ["base", "sft"], out=out, progress=False)
    assert base.items == sft.items == 5
    asked = [json.loads(line) for line in toy_task["test"].open()][:5]
    assert verify(out / "sft").held is True
    # As `tell evaluate` writes them in the adapter's folder.
    [kept] = json.loads((out / "sft" / "scores.json").read_text())
    assert (kept["task"], kept["split"], kept["items"], kept["of"]) == ("train", "test", 5, 12)
    assert round(kept["scores"]["exact_match"]["score"], 3) == sft.score
    assert kept["warnings"] == sft.warnings
    card = (out / "sft" / "README.md").read_text()
    assert f"| train, test | 5 (the first of 12) | exact_match | {sft.score:.1f} |" in card
    assert "Not scored yet" not in card
    assert not (out / "base").exists()
    for row in (base, sft):
        lines = (out / "predictions" / f"{row.method}.jsonl").read_text().splitlines()
        items = [json.loads(line) for line in lines]
        assert [item["prompt"] for item in items] == [item["prompt"] for item in asked]
        assert [item["reference"] for item in items] == [item["completion"] for item in asked]
        assert [item["origin"] for item in items] == [
            f"{toy_task['test']}:{n}" for n in range(1, 6)
        ]
        assert all(set(item["scores"]) == {"exact_match", "token_f1"} for item in items)
        mean = sum(item["scores"]["exact_match"] for item in items) / 5
        assert row.score == pytest.approx(mean, abs=1e-3)
        assert all(
            item["scores"]["exact_match"] == 100 * (item["prediction"] == item["reference"])
            for item in items
        )


@pytest.mark.parametrize("methods", [["sft", "tel"], ["nothing"], []])
def test_unknown_method_is_refused_before_anything_is_run_or_written(
    recipe, tmp_path, methods, monkeypatch
):
    ran = Counter()
    monkeypatch.setattr(
        "telltune.fitting.trained_method.TrainedMethod.run",
        lambda *_, **__: ran.update(["a method"]),
    )
    with pytest.raises(RecipeError):
        compare(recipe(), methods, out=tmp_path / "study", progress=False)
    assert not ran
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("last", ["tell", "sft_anchor", "base_anchor"])
def test_missing_anchor_is_told_before_anything_is_run(recipe, mixing, tmp_path, last):
    plain = recipe(**mixing, anchor=None)
    with pytest.raises(RecipeError, match=f"method `{last}` needs an anchor"):
        compare(plain, ["base", "sft", last], out=tmp_path / "study", progress=False)
    assert not (tmp_path / "study").exists()


def test_missing_general_data_only_matters_to_methods_that_mix(recipe, tmp_path):
    with pytest.raises(RecipeError, match="method `tell` needs general data"):
        compare(recipe(), ["sft", "tell"], out=tmp_path / "a", progress=False)
    assert not (tmp_path / "a").exists()
    plain = recipe(evaluation={"max_items": 1})
    assert len(compare(plain, ["sft_anchor"], out=tmp_path / "b", progress=False)) == 1


def test_too_little_general_data_is_told_before_anything_is_run(recipe, mixing, tmp_path):
    with pytest.raises(DataError, match="are missing"):
        compare(
            recipe(**mixing | {"mixture": {"leverage_ratio": 500}}),
            ["base", "sft", "tell"],
            out=tmp_path / "study",
            progress=False,
        )
    assert not (tmp_path / "study").exists()


def test_an_adapter_of_a_study_answers_as_it_did_in_the_study(recipe, tmp_path):
    import telltune

    out = tmp_path / "study"
    changed = recipe(evaluation={"metrics": ["token_f1"]})
    [row] = compare(changed, ["sft_anchor"], out=out, progress=False)
    again = telltune.evaluate(out / "sft_anchor", progress=False)
    assert round(again.headline[1].score, 3) == row.score
    written = [json.loads(line) for line in (out / "predictions" / "sft_anchor.jsonl").open()]
    assert again.predictions == [item["prediction"] for item in written]


def test_methods_that_train_nothing_can_be_compared(
    recipe, toy_recipe, tmp_path, untrained, server
):
    short = recipe(
        teacher={"url": server.url, "model": "large"},
        evaluation={"metrics": ["exact_match"], "max_items": 2},
        over_prompt={"inputs": 2},
        task=toy_recipe["task"] | {"max_examples": 18, "unlabeled": "rest"},
    )
    rows = compare(short, untrained, out=tmp_path / "study", progress=False)
    assert [row.method for row in rows] == untrained


def test_called_again_it_runs_only_what_has_no_row(recipe, tmp_path):
    out = tmp_path / "study"
    first = compare(recipe(), ["base", "sft"], out=out, progress=False)
    trained = (out / "sft" / "adapter_model.safetensors").stat().st_mtime_ns
    again = compare(recipe(), ["base", "sft", "sft_anchor"], out=out, progress=False)
    assert again[:2] == first
    assert [row.method for row in again] == ["base", "sft", "sft_anchor"]
    assert (out / "sft" / "adapter_model.safetensors").stat().st_mtime_ns == trained
    # The rows of an earlier version have fewer fields.
    rows = json.loads((out / "summary.json").read_text())
    first = [field.name for field in fields(ComparisonRow)][:9]  # up to `items`
    early = [{key: row[key] for key in first} for row in rows]
    (out / "summary.json").write_text(json.dumps(early))
    methods = ["base", "sft", "sft_anchor", "base_anchor"]
    more = compare(recipe(), methods, out=out, progress=False)
    assert [row.method for row in more] == methods
    assert [row.difference for row in more[:3]] == [row.difference for row in again]


def test_methods_whose_data_changed_run_again(recipe, tmp_path, toy_task, caplog):
    out = tmp_path / "study"
    compare(recipe(), ["base", "base_anchor"], out=out, progress=False)
    with toy_task["test"].open("a") as file:
        file.write('{"prompt": "item 99 is round", "completion": "ball"}\n')
    rows = compare(recipe(), ["base"], out=out, progress=False)
    assert [(row.method, row.items) for row in rows] == [("base", 13)]
    assert "Data or a model changed since base, base_anchor ran" in caplog.text


def test_methods_run_again_on_another_base(recipe, tmp_path, caplog):
    out, base = tmp_path / "study", tmp_path / "base"
    shutil.copytree(recipe().model.name, base)
    copied = recipe(model=str(base))
    [before] = compare(copied, ["tfidf_linear"], out=out, progress=False)
    weights = next(base.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-8] + bytes(8))
    rows = compare(copied, ["base"], out=out, progress=False)
    assert [row.method for row in rows] == ["base"]
    assert rows[0].hashes["base"] != before.hashes["base"]
    assert "model changed since tfidf_linear ran" in caplog.text


@pytest.mark.parametrize(
    ("method", "lever", "uses"),
    [
        ("encoder_centroid", {}, True),
        ("knn", {}, True),
        ("few_shot_nearest", {}, True),
        ("sft_product", {}, True),
        ("sft", {"pseudo_label": {"by": "encoder"}}, True),
        ("sft", {"product_of_experts": "tfidf"}, False),
        ("tfidf_linear", {}, False),
    ],
)
def test_methods_with_a_sentence_encoder_run_again_on_another(
    method, lever, uses, recipe, toy_recipe, tmp_path, tiny_encoder, monkeypatch, caplog
):
    task = toy_recipe["task"] | {"max_examples": 12, "unlabeled": "rest"}
    levered = recipe(task=task, **lever)
    compare(levered, [method], out=tmp_path / "out", progress=False)
    monkeypatch.setattr(embeddings, "embedded_folder", lambda: str(tiny_encoder))
    embeddings._loaded.cache_clear()
    compare(levered, [method], out=tmp_path / "out", progress=False)
    assert ("model changed since" in caplog.text) == uses


def test_a_method_that_fails_is_named_at_the_end_and_tried_again(recipe, tmp_path, monkeypatch):
    out = tmp_path / "study"
    run = BASE_ANCHOR.run

    def breaks(self, *arguments):
        if self is BASE_ANCHOR:
            raise MemoryError("no room")
        return run(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(type(BASE_ANCHOR), "run", breaks)
        with pytest.raises(FailedMethodsError, match="base_anchor failed: MemoryError") as told:
            compare(recipe(), ["base_anchor", "base", "sft"], out=out, progress=False)
    assert [row.method for row in told.value.rows] == ["base", "sft"]
    assert told.value.rows[0].difference is not None
    assert json.loads((out / "summary.json").read_text()) == [vars(row) for row in told.value.rows]
    assert "MemoryError" in (out / "failures" / "base_anchor.txt").read_text()
    rows = compare(recipe(), ["base_anchor", "base", "sft"], out=out, progress=False)
    assert rows[:2] == told.value.rows
    assert rows[2].method == "base_anchor"


def test_a_summary_of_something_else_is_refused(recipe, tmp_path):
    out = tmp_path / "study"
    compare(recipe(), ["base"], out=out, progress=False)
    for content in ("{", '{"points": []}', '[{"method": "sft", "colour": 1}]'):
        (out / "summary.json").write_text(content)
        with pytest.raises(StorageError, match="not the rows of a comparison"):
            compare(recipe(), ["base"], out=out, progress=False)
    assert len(compare(recipe(), ["base"], out=out, overwrite=True, progress=False)) == 1


def test_an_answer_with_an_unusual_line_end_is_read_as_one_item(
    recipe, toy_recipe, write_jsonl, tmp_path
):
    rows = [{"prompt": f"item {i}", "completion": "a\u2028b"} for i in range(4)]
    task = toy_recipe["task"] | {"test": str(write_jsonl(tmp_path / "unusual.jsonl", rows))}
    [base, _] = compare(recipe(task=task), ["base", "sft"], out=tmp_path / "study", progress=False)
    assert base.difference is not None


def test_forgetting_is_not_measured_where_no_general_data_are_left(
    recipe, toy_recipe, tmp_path, caplog
):
    few = tmp_path / "few.jsonl"
    lines = Path(toy_recipe["general"]).read_text().splitlines(keepends=True)
    few.write_text("".join(lines[:33]))
    greedy = recipe(general=str(few), mixture={"general_examples": 4, "passes": 1})
    rows = compare(greedy, ["base", "tell"], out=tmp_path / "study", progress=False)
    assert [row.general_loss for row in rows] == [None, None]
    assert "Forgetting is not measured: general data: 33 examples are too few" in caplog.text
