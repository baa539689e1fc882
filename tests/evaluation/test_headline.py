"""The metrics of a task follow from its answers, for few and many of them and every method."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telltune.data.task import load_task
from telltune.evaluation.headline import choose_metrics, label_set, task_answers
from telltune.inference.labels import closed_set, label_key
from telltune.recipe import recipe_from_dict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LABELS = ("accuracy", "macro_f1", "balanced_accuracy")
JSON = ("json_field_accuracy", "json_valid", "exact_match")
SHORT = ("exact_match", "token_f1", "chrf")
TEXT = ("chrf", "token_f1", "rouge_l", "exact_match")

INTENTS = [f"{verb} {thing}" for verb in ["open", "close", "find", "lock"] for thing in range(20)][
    :77
]


@pytest.mark.parametrize(
    ("answers", "chosen"),
    [
        (["billing"] * 5 + ["sales"] * 4 + ["returns"] * 3 + ["shipping"] * 2, LABELS),
        (["yes"] * 3 + ["no"] * 3, LABELS),
        (["ham"] * 5 + ["spam"], LABELS),
        (["yes", "no"] * 2, LABELS),
        (["yes"] * 5, LABELS),
        (["A", "B", "C", "D"] * 3 + ["A", "B"], LABELS),
        ([*"ABCDEFGH", *"ABCDEF"], LABELS),
        ([*"AABBCD"], LABELS),
        ([*"AABBCDE"], SHORT),
        ([INTENTS[(7 * n) % 77] for n in range(300)], LABELS),
        ([f"intent {n % 150}" for n in range(450)], LABELS),
        (["The customer wants the money back.", "The customer asks where the box is."] * 6, LABELS),
        (["退款", "发货", "账单"] * 4, LABELS),
        ([str(n % 5 + 1) for n in range(15)], LABELS),  # ratings
        (["0", "1"] * 5, LABELS),
        ([str(n % 77) for n in range(3000)], LABELS),  # numbers of classes
        (['{"team": "billing"}', '{"team": "sales"}'] * 4, JSON),
        (['[{"a": 1}]', "[]", "none"], JSON),
        (["[]", "none", "none"], SHORT),
        (["Reykjavík", "Oslo", "Copenhagen"], SHORT),
        (["yes"], SHORT),
        ([], SHORT),
        (["none"] * 60 + [f"name {n}" for n in range(40)], SHORT),
        ([str(a + b) for a in range(1, 13) for b in range(1, 13)], SHORT),  # sums repeat
        ([str(a * b) for a in range(20) for b in range(20)], SHORT),
        ([str(n * 17) for n in range(40)], SHORT),
        (["北京", "上海市", "巴黎", "伦敦"], ("exact_match", "chrf")),
        (["データ", "サーバー", "々〇", "ꩠꩡ"], ("exact_match", "chrf")),
        ([f"The parcel {n} is late, and its card was wet." for n in range(20)], TEXT),
        (["The parcel is late today."] * 2 + [f"The {n} was wet again." for n in range(18)], TEXT),
        (["a line\nanother line"] * 10, TEXT),
        (["it is late " * 12] * 20, TEXT),
        (
            ["今天天气很好，我们去公园散步吧。", "他昨天没有来上课，因为生病了。"],
            ("chrf", "exact_match"),
        ),
        (["วันนี้อากาศดีมากเราไปเดินเล่นกัน"], ("chrf", "exact_match")),
    ],
)
def test_metrics_fit_the_answers(answers: list[str], chosen: tuple[str, ...]) -> None:
    assert choose_metrics(answers) == chosen


words = st.text("abcdefgh", min_size=1, max_size=8)


@given(data=st.data(), labels=st.lists(words, min_size=1, max_size=40, unique_by=label_key))
def test_labels_that_all_come_twice_are_labels_at_any_size(
    data: st.DataObject, labels: list[str]
) -> None:
    extra = data.draw(st.lists(st.sampled_from(labels), max_size=200))
    answers = data.draw(st.permutations([*labels * 2, *extra, *labels[:1] * 2]))
    assert choose_metrics(answers) == LABELS
    assert label_set(answers) == tuple(sorted(labels))


@given(
    st.lists(st.lists(words, min_size=4, max_size=12).map(" ".join), min_size=5, unique=True),
    st.integers(0, 2),
)
def test_free_text_is_free_text_where_some_answers_coincide(texts: list[str], again: int) -> None:
    assert choose_metrics([*texts, *texts[:again]])[0] == "chrf"


@given(st.lists(st.dictionaries(words, st.integers() | words), min_size=1), st.integers(0, 20))
def test_json_is_json_where_most_of_it_is(values: list[dict[str, Any]], others: int) -> None:
    texts = [*map(json.dumps, values), *["none"] * min(others, len(values) - 1)]
    assert choose_metrics(texts) == JSON
    assert label_set(texts) == ()


@given(st.integers(2, 40), st.integers(0, 99))
def test_results_of_calculations_are_no_labels(largest: int, least: int) -> None:
    sums = [
        str(a + b) for a in range(least, least + largest) for b in range(least, least + largest)
    ]
    assert largest < 3 or choose_metrics(sums)[0] == "exact_match"


@given(st.lists(st.sampled_from(["a", "b", "1", "2", "{}", "no way out of it"]), max_size=30))
def test_order_does_not_matter_and_there_is_always_a_headline(answers: list[str]) -> None:
    assert choose_metrics(answers) == choose_metrics(answers[::-1])
    assert choose_metrics(answers)
    assert set(closed_set(answers)) <= set(answers)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1", "1.0", True),
        ("Billing", "billing ", True),
        ("not_spam", "not spam", True),
        ("not-spam", "Not  spam.", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("yes", "“Yes”", True),
        ("ship\u200b", "\ufeffship", True),
        ("1", "-1", False),
        ("1", "10", False),
        ("1.5", "15", False),
        ("A+", "A-", False),
        ("C", "C#", False),
        ("?", "!", False),
        ("<5", ">5", False),
        ("nan", "NaN", True),
        ("inf", "infinity", False),
    ],
)
def test_spelling_is_apart_from_meaning(one: str, other: str, same: bool) -> None:
    assert (label_key(one) == label_key(other)) == same


@pytest.fixture
def task_of(
    toy_recipe: dict[str, Any], tmp_path: Path, write_jsonl: Callable[..., Path]
) -> Callable[..., Any]:
    """Return a function that makes a recipe with the given answers in each split."""

    def build(**splits: list[str]) -> Any:
        task: dict[str, Any] = {}
        for name, answers in splits.items():
            rows = [{"prompt": f"{name} {i}?", "completion": a} for i, a in enumerate(answers)]
            task[name] = str(write_jsonl(tmp_path / f"{name}.jsonl", rows))
        return recipe_from_dict(toy_recipe | {"task": task})

    return build


def found(recipe: Any) -> Any:
    return task_answers(recipe, load_task(recipe))


def test_all_splits_decide_together(task_of: Callable[..., Any]) -> None:
    train = ["billing", "sales", "returns", "shipping"]
    alone = found(task_of(train=train))
    assert (alone.metrics, alone.labels, alone.test) == (SHORT, (), ())
    answers = found(task_of(train=train, dev=train[:2], test=train * 2))
    assert (answers.metrics, answers.labels) == (LABELS, tuple(sorted(train)))
    assert [example.completion for example in answers.test] == train * 2


def test_the_thinking_before_an_answer_does_not_decide(task_of: Callable[..., Any]) -> None:
    labels = ["yes", "no"] * 4
    said = [f"<think>\nNumber {i}.\n</think>\n\n{label}" for i, label in enumerate(labels)]
    answers = found(task_of(train=said))
    assert (answers.metrics, answers.labels) == (LABELS, ("no", "yes"))
    assert sorted(answers.train) == sorted(labels)


def test_how_many_examples_are_taken_does_not_change_the_metrics(
    task_of: Callable[..., Any],
) -> None:
    recipe = task_of(train=["yes", "no"] * 8)
    few = recipe.task.model_copy(update={"max_examples": 1})
    answers = found(recipe.model_copy(update={"task": few}))
    assert (answers.metrics, len(answers.train)) == (LABELS, 1)


def test_named_metrics_and_those_of_embedded_tasks_stand(task_of: Callable[..., Any]) -> None:
    recipe = task_of(train=["yes", "no"] * 4)
    named = recipe.evaluation.model_copy(update={"metrics": ["bleu"]})
    assert found(recipe.model_copy(update={"evaluation": named})).metrics == ("bleu",)


def test_test_data_that_cannot_be_read_do_not_decide(task_of: Callable[..., Any]) -> None:
    recipe = task_of(train=["yes", "no"] * 4, test=["yes"])
    with open(recipe.task.test[0].path, "a") as file:  # noqa: PTH123
        file.write("{broken\n")
    answers = found(recipe)
    assert (answers.metrics, answers.test) == (LABELS, ())
    assert "test.jsonl:2" in answers.problem
