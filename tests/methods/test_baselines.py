"""Baselines answer from the training data, without a language model."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml

import telltune
from telltune.data.examples import Example, Message
from telltune.data.task import TaskData, load_split, load_task
from telltune.errors import RecipeError
from telltune.fitting.protocol import Settings
from telltune.methods.registry import get_method
from telltune.recipe import as_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from telltune.fitting.predictor import Predictor

LABELED = ("tfidf_linear", "encoder_linear", "encoder_centroid", "probe")
WITH_UNLABELED = ("tfidf_em", "encoder_em", "combined_em", "chosen_em")
TOPICS = {
    "animals": ["the dog barks", "a cat sleeps", "two horses run", "the cow eats grass"],
    "money": ["pay the invoice", "the bank raised rates", "send me a refund", "taxes are due"],
    "weather": ["it rains all day", "heavy snow tonight", "a sunny morning", "the storm is near"],
}


def task_of(rows: list[tuple[str, str]]) -> TaskData:
    return TaskData("toy", tuple(Example(p, c) for p, c in rows), (), None, ())


def inputs(*prompts: str) -> tuple[Example, ...]:
    return tuple(Example(prompt, "") for prompt in prompts)


def run(name: str, task: TaskData, base: Any, **keys: Any) -> Predictor:
    recipe = as_recipe({"task": {"train": "unused.jsonl", **keys}})
    return get_method(name).run(task, None, base, Settings(recipe))


@pytest.fixture
def topics() -> TaskData:
    return task_of([(text, label) for label, texts in TOPICS.items() for text in texts])


@pytest.mark.parametrize("name", ["tfidf_linear", "probe", "encoder_centroid"])
def test_white_space_around_a_label_makes_no_other(
    name: str, topics: TaskData, tiny_base: Any
) -> None:
    ends = ("", " ", "\n", "")
    train = [replace(e, completion=e.completion + ends[i % 4]) for i, e in enumerate(topics.train)]
    predictor = run(name, replace(topics, train=tuple(train)), tiny_base)
    assert predictor.labels == tuple(sorted(TOPICS))
    assert predictor.label_scores(train)[0] == predictor.labels


@pytest.mark.parametrize("name", ["encoder_linear", "encoder_centroid", "knn"])
def test_an_encoder_knows_words_that_training_lacks(
    name: str, topics: TaskData, tiny_base: Any
) -> None:
    asked = ["a puppy plays with a kitten", "my credit card was charged", "thunder and lightning"]
    predictor = run(name, topics, tiny_base)
    assert predictor.predict([Example(a, "") for a in asked]) == ["animals", "money", "weather"]
    assert predictor.predict([]) == []


@pytest.mark.parametrize("name", [*LABELED, "knn"])
def test_training_examples_get_their_own_answers(
    name: str, topics: TaskData, tiny_base: Any
) -> None:
    predictor = run(name, topics, tiny_base)
    assert predictor.predict(topics.train) == [example.completion for example in topics.train]
    assert predictor.cost.task_examples == 12
    assert predictor.cost.trained_tokens == 0


@pytest.mark.parametrize(
    "name", ["encoder_centroid", "encoder_linear", "encoder_em", "combined_em", "chosen_em"]
)
def test_a_listed_label_needs_no_example(name: str, topics: TaskData, tiny_base: Any) -> None:
    two = tuple(example for example in topics.train if example.completion != "weather")
    more = inputs("a wet afternoon", "it is cold outside", "my cat is ill", "an unpaid bill")
    asked = [Example(a, "") for a in ("a puppy plays", "my card was charged", "thunder and rain")]
    task = replace(topics, train=two, unlabeled=more)
    assert "weather" not in run(name, task, tiny_base).predict(asked)
    listed = replace(task, labels={"animals": "animals", "money": "money", "weather": "rain, snow"})
    predictor = run(name, listed, tiny_base)
    assert predictor.predict(asked) == ["animals", "money", "weather"]
    assert predictor.labels == tuple(TOPICS)
    assert predictor.cost.task_examples == 8


def test_the_nearest_example_is_no_label(topics: TaskData, tiny_base: Any) -> None:
    listed = replace(topics, labels=dict.fromkeys(("money", "animals"), "the dog barks"))
    assert run("knn", listed, tiny_base).predict([Example("the dog barks", "")]) == ["animals"]


def test_question_words_and_marks_decide(tiny_base: Any) -> None:
    nouns = ["lake", "house", "song", "king", "river", "school"]
    rows = [(f"who saw the {n}?", "person") for n in nouns]
    rows += [(f"where is the {n}?", "place") for n in nouns]
    rows += [(f"look at the {n}!", "order") for n in nouns]
    predictor = run("tfidf_linear", task_of(rows), tiny_base)
    asked = [Example(p, "") for p in ("who saw the tower?", "where is the tower?", "a tower!")]
    assert predictor.predict(asked) == ["person", "place", "order"]


def test_words_that_only_unlabeled_inputs_join_to_a_label_count(tiny_base: Any) -> None:
    rows = [("the dog barks", "animals"), ("the bank lends", "money")] * 2
    # "dog" leads to "kennel", and "bank" to "vault".
    more = [f"dog kennel {i}" for i in range(9)] + [f"bank vault {i}" for i in range(9)]
    task = replace(task_of(rows), unlabeled=inputs(*more))
    predictor = run("tfidf_em", task, tiny_base)
    assert predictor.predict(inputs("a vault", "a kennel")) == ["money", "animals"]
    assert predictor.cost.unlabeled_examples == 18
    assert predictor.cost.unlabeled_tokens > 18
    assert predictor.cost.task_examples == 4


def test_the_view_is_chosen_that_labeled_examples_prefer(topics: TaskData, tiny_base: Any) -> None:
    marks = {".": "statement", "!": "order", "?": "question"}
    texts = [text for some in TOPICS.values() for text in some]
    rows = [(f"{text} {mark}", answer) for text in texts for mark, answer in marks.items()]
    more = inputs(*(f"a ship sails {mark}" for mark in marks))
    by_form = run("chosen_em", replace(task_of(rows), unlabeled=more), tiny_base)
    by_topic = run("chosen_em", replace(topics, unlabeled=inputs("a dog", "a bill")), tiny_base)
    kinds = [one.classifier and one.classifier.vectorize.kind for one in (by_form, by_topic)]
    assert kinds == ["tfidf", "encoder"]
    assert by_form.predict(inputs("a lamp ?", "a lamp !")) == ["question", "order"]
    assert by_topic.predict(inputs("a puppy plays", "a wet day")) == ["animals", "weather"]


def test_labeled_inputs_are_not_counted_as_unlabeled(topics: TaskData, tiny_base: Any) -> None:
    task = replace(topics, unlabeled=inputs("a dog", topics.train[0].prompt))
    assert run("encoder_em", task, tiny_base).cost.unlabeled_examples == 1


@pytest.mark.parametrize("name", WITH_UNLABELED)
def test_without_unlabeled_inputs_em_is_refused(
    name: str, topics: TaskData, tiny_base: Any
) -> None:
    with pytest.raises(RecipeError, match=f"method `{name}` needs unlabeled inputs.*task.unlabel"):
        run(name, topics, tiny_base)


@pytest.mark.parametrize("name", LABELED)
def test_two_labels_are_both_answered(name: str, topics: TaskData, tiny_base: Any) -> None:
    two = replace(topics, train=topics.train[:8])
    assert run(name, two, tiny_base).predict(two.train) == ["animals"] * 4 + ["money"] * 4


def test_a_probe_reads_what_the_base_computes_and_leaves_it_as_it_was(
    topics: TaskData, tiny_base: Any
) -> None:
    weights = {name: value.clone() for name, value in tiny_base.model.state_dict().items()}
    predictor = run("probe", topics, tiny_base)
    # No language model writes answers, so forgetting is not measured.
    assert predictor.model is None
    together = predictor.predict(topics.train)
    assert [predictor.predict([one])[0] for one in topics.train] == together
    for name, value in tiny_base.model.state_dict().items():
        assert torch.equal(value, weights[name])
    # Another base has other states; these do not depend on the text.
    for parameter in tiny_base.model.parameters():
        parameter.data.zero_()
    assert len(set(predictor.predict(topics.train))) == 1


def test_compare_refuses_before_the_first_method_runs(
    toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    rows = [{"prompt": f"item {i}", "completion": f"answer {i}"} for i in range(8)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "train.jsonl")}
    with pytest.raises(RecipeError, match="chooses among labels"):
        telltune.compare(
            {**toy_recipe, "task": task},
            ["sft", "tfidf_linear"],
            out=tmp_path / "out",
            progress=False,
        )
    assert not (tmp_path / "out" / "sft").exists()


@pytest.mark.parametrize("name", LABELED)
def test_answers_that_are_no_labels_are_refused(name: str, tiny_base: Any) -> None:
    task = task_of([(f"item {i}", f"answer {i}") for i in range(8)])
    with pytest.raises(RecipeError, match=f"method `{name}` chooses among labels"):
        run(name, task, tiny_base)


def test_the_nearest_example_answers_free_text(tiny_base: Any) -> None:
    task = task_of([("what is the capital of France", "Paris, I think"), ("bake bread", "Flour.")])
    asked = [Example("name the French capital city", ""), Example("how do I bake a loaf", "")]
    assert run("knn", task, tiny_base).predict(asked) == ["Paris, I think", "Flour."]


def test_earlier_turns_are_part_of_what_is_asked(topics: TaskData, tiny_base: Any) -> None:
    history = (Message("system", "taxes, rates, refund"), Message("user", "heavy snow and rain"))
    asked = Example("and tomorrow?", "", history=history)
    assert run("encoder_centroid", topics, tiny_base).predict([asked]) == ["weather"]


def test_task_tokens_limit_what_is_learned(topics: TaskData, tiny_base: Any) -> None:
    whole = run("knn", topics, tiny_base).cost
    part = run("knn", topics, tiny_base, max_tokens=whole.task_tokens // 2).cost
    assert part.task_examples < whole.task_examples
    assert part.task_tokens <= whole.task_tokens // 2


def test_perplexity_is_refused(topics: TaskData, tiny_base: Any) -> None:
    with pytest.raises(RecipeError, match="no perplexity"):
        run("knn", topics, tiny_base).nll(topics.train)


def test_compare_puts_baselines_beside_adapters(toy_recipe: dict[str, Any], tmp_path: Path) -> None:
    rows = telltune.compare(
        toy_recipe, ["base", "tfidf_linear", "knn"], out=tmp_path / "out", progress=False
    )
    assert [row.method for row in rows] == ["base", "tfidf_linear", "knn"]
    by_method = {row.method: row for row in rows}
    assert by_method["tfidf_linear"].score > by_method["base"].score
    assert by_method["tfidf_linear"].task_tokens > 0
    assert by_method["tfidf_linear"].general_loss is None
    lines = (tmp_path / "out" / "predictions" / "tfidf_linear.jsonl").read_text().splitlines()
    recipe = as_recipe(toy_recipe)
    seen = {example.completion for example in load_task(recipe).train}
    assert {json.loads(line)["prediction"] for line in lines} <= seen
    right = [
        json.loads(x)["prediction"] == e.completion
        for x, e in zip(lines, load_split(recipe, "test"), strict=True)
    ]
    assert 100 * np.mean(right) == pytest.approx(by_method["tfidf_linear"].score, abs=0.01)


def test_studies_score_baselines_and_measure_no_forgetting_of_them(
    toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    study = {
        "recipe": toy_recipe,
        "methods": ["tell", "tfidf_linear"],
        "sizes": [300],
        "forgetting": {"examples": 8, "prompts": 4},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    _, rows = telltune.run_study(tmp_path / "study.yaml", tmp_path / "out", progress=False)
    forgetting = {row.name: row.forgetting for row in rows if row.status == "done"}
    assert forgetting.keys() == {"tell", "tfidf_linear"}
    assert "general_nll_after" in forgetting["tell"]
    assert "general_nll_after" not in forgetting["tfidf_linear"]
