"""Held-out items of a task stay held out, for every seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import telltune
from telltune.data.task import load_general, load_split, load_task, unlabeled_beside
from telltune.errors import DataError, RecipeError
from telltune.evaluation.headline import task_answers
from telltune.recipe import Recipe, recipe_from_dict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def task_of(tmp_path: Path, write_jsonl: Callable[..., Path]) -> Callable[..., Recipe]:
    """Return a function that makes a recipe with each prompt in two rows and a held-out share."""

    def build(prompts: int, share: float, seed: int = 0, **task: Any) -> Recipe:
        rows = [{"prompt": f"item {n}", "completion": c} for n in range(prompts) for c in "ab"]
        path = write_jsonl(tmp_path / "rows.jsonl", rows)
        given = {"train": str(path), "dev_share": share, **task}
        return recipe_from_dict({"task": given, "seed": seed})

    return build


def test_a_held_out_share_is_dev_and_is_not_trained_on(task_of: Callable[..., Recipe]) -> None:
    task = load_task(task_of(20, 0.25))
    dev, train = {e.prompt for e in task.dev}, {e.prompt for e in task.train}
    # Five prompts of twenty, with all their rows.
    assert (len(task.dev), len(task.train)) == (10, 30)
    assert (len(dev), len(train)) == (5, 15)
    assert not dev & train


def test_every_seed_holds_out_the_same_examples(task_of: Callable[..., Recipe]) -> None:
    held = [load_split(task_of(20, 0.25, seed), "dev") for seed in (0, 1)]
    assert held[0] == held[1]


@pytest.mark.parametrize(("prompts", "share", "folds"), [(24, 0.2, 5), (60, 0.2, 5), (7, 0.34, 2)])
def test_folds_hold_out_each_prompt_once(
    task_of: Callable[..., Recipe], prompts: int, share: float, folds: int
) -> None:
    held = [
        {e.prompt for e in load_split(task_of(prompts, share, dev_fold=fold), "dev")}
        for fold in range(folds)
    ]
    assert sum(map(len, held)) == len(set().union(*held))
    assert max(map(len, held)) - min(map(len, held)) <= 1
    if share * folds == 1:
        assert len(set().union(*held)) == prompts
    assert held[0] == {e.prompt for e in load_split(task_of(prompts, share), "dev")}


def test_a_fold_beyond_the_data_is_refused(task_of: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError, match=r"6 parts of dev_share = 0\.2 are more than `train`"):
        task_of(10, 0.2, dev_fold=5)


def test_a_share_that_leaves_nothing_to_train_on_is_refused(task_of: Callable[..., Recipe]) -> None:
    with pytest.raises(DataError, match=r"dev_share = 0\.9 of 2 prompts leaves no training data"):
        load_task(task_of(2, 0.9))


@pytest.mark.parametrize(
    "given", [{"embedded": "equation"}, {"train": "a.jsonl", "dev": "b.jsonl"}]
)
def test_a_task_with_dev_data_holds_none_out(given: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"task\.dev_share.*without dev data"):
        recipe_from_dict({"task": given | {"dev_share": 0.2}})


@pytest.fixture
def with_unlabeled(tmp_path: Path, write_jsonl: Callable[..., Path]) -> Callable[..., Recipe]:
    """Return a function that makes a recipe with few labeled and the given unlabeled rows."""

    def build(rows: list[dict[str, Any]] | str, train: str = "prompt", **keys: Any) -> Recipe:
        def path(name: str, some: list[dict[str, Any]]) -> str:
            return str(write_jsonl(tmp_path / f"{name}.jsonl", some))

        def labeled(name: str, count: int) -> list[dict[str, Any]]:
            return [{train: f"{name} {n}", "completion": "a"} for n in range(count)]

        columns = {"prompt": train, "completion": "completion"}
        task = {
            "train": {"path": path("train", labeled("item", 10)), "columns": columns},
            "dev": {"path": path("dev", labeled("dev", 2)), "columns": columns},
            "test": {"path": path("test", labeled("test", 2)), "columns": columns},
            "unlabeled": rows if isinstance(rows, str) else path("more", rows),
        }
        return recipe_from_dict({"task": task | keys})

    return build


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "new"},
        {"prompt": "new", "completion": None},
        {"text": "new"},
        {"question": "new", "id": 7},
        {"messages": [{"role": "user", "content": "new"}]},
        {"conversations": [{"from": "human", "value": "new"}]},
    ],
)
def test_unlabeled_inputs_are_read_in_any_layout(
    with_unlabeled: Callable[..., Recipe], row: dict[str, Any]
) -> None:
    (only,) = load_task(with_unlabeled([row])).unlabeled
    assert (only.prompt, only.completion) == ("new", "")
    assert only.origin.endswith("more.jsonl:1")


def test_unlabeled_inputs_have_the_columns_of_the_training_data(
    with_unlabeled: Callable[..., Recipe],
) -> None:
    task = load_task(with_unlabeled([{"body": "new", "subject": "x"}], train="body"))
    assert [example.prompt for example in task.unlabeled] == ["new"]
    assert any("not read: `subject` (1 of 1 rows)" in text for text in task.warnings)


@pytest.mark.parametrize(
    "answered",
    [
        {"prompt": "new", "completion": "secret"},
        {"text": "new", "label": "secret"},
        {
            "messages": [
                {"role": "user", "content": "new"},
                {"role": "assistant", "content": "secret"},
            ]
        },
    ],
)
def test_answers_of_unlabeled_inputs_are_ignored_and_counted(
    with_unlabeled: Callable[..., Recipe], answered: dict[str, Any]
) -> None:
    task = load_task(with_unlabeled([answered, {**answered}]))
    assert "secret" not in repr(task.unlabeled)
    (told,) = (text for text in task.warnings if "answer is ignored" in text)
    assert told.startswith("task.unlabeled: 2 left out")


def test_inputs_that_dev_or_test_ask_are_left_out_and_counted(
    with_unlabeled: Callable[..., Recipe],
) -> None:
    rows = [{"prompt": text} for text in ("new", "Dev  1", "TEST 0", "new")]
    task = load_task(with_unlabeled(rows))
    assert [example.prompt for example in task.unlabeled] == ["new"]
    assert "task.unlabeled: 1 left out as duplicates of another input." in task.warnings
    assert any("2 of 3 left out because dev or test data" in text for text in task.warnings)


def test_labeled_inputs_are_not_unlabeled_ones(with_unlabeled: Callable[..., Recipe]) -> None:
    task = load_task(with_unlabeled([{"prompt": "new"}, {"prompt": "item 3"}]))
    assert [example.prompt for example in unlabeled_beside(task, task.train)] == ["new"]


def test_the_rest_are_the_training_examples_that_are_not_drawn(
    with_unlabeled: Callable[..., Recipe],
) -> None:
    task = load_task(with_unlabeled("rest", max_examples=4))
    for used in (4, 2):
        rest = unlabeled_beside(task, task.train[:used])
        assert len(rest) == 10 - used
        assert not {e.prompt for e in rest} & {e.prompt for e in task.train[:used]}
        assert {e.completion for e in rest} == {""}


def test_the_rest_of_an_embedded_task_has_no_dev_or_test_inputs() -> None:
    keys = {"embedded": "answer_kind", "max_examples": 20, "unlabeled": "rest"}
    recipe = recipe_from_dict({"task": keys})
    task = load_task(recipe)
    asked = {example.prompt for example in unlabeled_beside(task, task.train)}
    assert len(asked) > 1000
    assert not asked & {e.prompt for e in (*task.dev, *task.train, *load_split(recipe, "test"))}


def test_rows_without_a_prompt_are_refused(with_unlabeled: Callable[..., Recipe]) -> None:
    with pytest.raises(DataError, match=r"1 problem in the data: .*more\.jsonl:2"):
        load_task(with_unlabeled([{"prompt": "new"}, {"prompt": ""}]))


@pytest.fixture
def streaming(
    tmp_path: Path, write_jsonl: Callable[..., Path], toy_rows: Callable[..., Any]
) -> Callable[..., Recipe]:
    """Return a function that makes a recipe with 30 task rows and a stream of 8,000 rows."""
    train = str(write_jsonl(tmp_path / "train.jsonl", toy_rows(range(30))))
    rows = [{"prompt": f"Write {n}.", "completion": "word " * 20} for n in range(8000)]
    for shard in range(4):
        write_jsonl(tmp_path / f"s{shard}.jsonl", rows[shard * 2000 : (shard + 1) * 2000])

    def build(**keys: Any) -> Recipe:
        general = {"stream": str(tmp_path / "s*.jsonl")} | keys.pop("general", {})
        return recipe_from_dict({"task": {"train": train}, "general": general} | keys)

    return build


def read(recipe: Recipe) -> int:
    general = load_general(recipe)
    assert general is not None
    return general.contents.examples


def test_of_a_stream_as_much_is_read_as_the_mixture_needs(
    streaming: Callable[..., Recipe],
) -> None:
    # 30 rows of some 20 bytes need less than the least part.
    assert read(streaming()) == 1000
    # Twice 500 times the bytes of the task, in examples of about 111 bytes.
    assert 5000 < read(streaming(mixture={"leverage_ratio": 500})) < 6000
    # Everything, if there is no more.
    assert read(streaming(mixture={"leverage_ratio": 5000})) == 8000
    assert read(streaming(mixture={"general_examples": 900})) == 1800
    assert read(streaming(meta={"examples": 3000})) == 3000


def test_how_much_of_a_stream_is_read_can_be_set(streaming: Callable[..., Recipe]) -> None:
    recipe = streaming(general={"take": 7})
    assert recipe.general is not None
    assert [source.take for source in recipe.general.sources] == [7]
    assert read(recipe) == 7
    with pytest.raises(RecipeError, match=r"`general\.sources\.0\.take`: use `take` or `rows`"):
        streaming(general={"take": 7, "rows": [0, 5]})
    with pytest.raises(RecipeError, match=r"`task\.train`: `take: auto` is for general data"):
        recipe_from_dict({"task": {"train": {"path": "a.jsonl", "take": "auto"}}})


def test_a_pattern_is_taken_beside_the_recipe(
    streaming: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming()
    monkeypatch.chdir(tmp_path.parent)
    values = {"task": "answer_kind", "general": {"stream": "s?.jsonl", "take": 7}}
    assert read(recipe_from_dict(values, folder=tmp_path)) == 7
    missing = recipe_from_dict(values | {"general": "t?.jsonl"}, folder=tmp_path)
    with pytest.raises(DataError, match=r"no file or folder t\?\.jsonl"):
        read(missing)


@pytest.fixture
def listing(tmp_path: Path, write_jsonl: Callable[..., Path]) -> Callable[..., Recipe]:
    """Return a function that makes a recipe with two listed labels and the given answers."""

    def recipe(labels: Any, **answers: str) -> Recipe:
        task = {
            part: str(write_jsonl(tmp_path / f"{part}.jsonl", [{"prompt": part, "completion": a}]))
            for part, a in answers.items()
        }
        return recipe_from_dict({"model": "embedded", "task": {**task, "labels": labels}})

    return recipe


def test_listed_labels_are_examples_of_themselves(listing: Callable[..., Recipe]) -> None:
    names = ["HassTurnOn", "cancel_timer", "co-op", "a/c is off", "№"]
    task = load_task(listing([*names, "on"], train="on"))
    assert list(task.labels) == [*names, "on"]
    said = [example.prompt for example in task.named_labels]
    assert said == 2 * ["Hass Turn On", "cancel timer", "co op", "a/c is off", "№", "on"]
    task = load_task(listing({"on": "switch it on", " off ": "switch_off"}, train="on"))
    assert [(one.prompt, one.completion) for one in task.named_labels[:2]] == [
        ("switch it on", "on"),
        ("switch off", "off"),
    ]
    assert not load_task(listing(None, train="on")).named_labels


def test_a_label_without_words_is_no_example(listing: Callable[..., Recipe]) -> None:
    task = load_task(listing({"q17x": "", "off": "switch it off"}, train="q17x"))
    assert list(task.labels) == ["q17x", "off"]
    assert [one.completion for one in task.named_labels] == ["off", "off"]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        *(("HassTurnOn", "Hass Turn On"), ("turn_on", "turn on"), ("turn--on", "turn on")),
        *(("text/plain", "text plain"), ("utf-8", "utf 8"), ("_x_", "x"), ("__", "__")),
        *(("-1", "-1"), ("-0.5", "-0.5"), ("3.5", "3.5"), ("change_-1", "change -1")),
        *(("A-", "A-"), ("AA--", "AA--"), ("2-", "2-"), ("A+", "A+"), ("-", "-")),
        *(("ÄrgerÜber", "Ärger Über"), ("turn off_light", "turn off light")),
        ("a low-cost, e.g. used, item", "a low-cost, e.g. used, item"),
    ],
)
def test_a_name_is_read_as_its_words_with_their_signs(
    name: str, read: str, listing: Callable[..., Recipe]
) -> None:
    task = load_task(listing([name, "other"], train="other"), may_lack_examples=True)
    assert task.named_labels[0].prompt == read


def test_white_space_around_an_answer_makes_no_other_label(
    listing: Callable[..., Recipe],
) -> None:
    recipe = listing(["on", "off"], train=" on\n", test="off ")
    assert [example.completion for example in load_split(recipe, "train")] == ["on"]
    assert [example.completion for example in load_split(recipe, "test")] == ["off"]


@pytest.mark.parametrize("part", ["train", "dev", "test"])
def test_an_answer_that_is_not_listed_is_refused(part: str, listing: Callable[..., Recipe]) -> None:
    recipe = listing(["turn on", "turn off"], **{"train": "turn on", part: "Turn on"})
    with pytest.raises(DataError, match=rf"{part}.jsonl:1: the answer `Turn on` .*`turn on`"):
        load_split(recipe, part)  # type: ignore[arg-type]
    other = listing(["turn on", "turn off"], **{"train": "turn on", part: "dim"})
    with pytest.raises(DataError, match="correct the row, or list it"):
        load_split(other, part)  # type: ignore[arg-type]


def test_the_check_finds_every_answer_that_is_not_listed(
    tmp_path: Path, write_jsonl: Callable[..., Path], tiny_model: Path
) -> None:
    rows = [{"prompt": f"{n}?", "completion": c} for n, c in enumerate(["on", "of", "dim", "off"])]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    task = {"train": str(path), "labels": ["on", "off"]}
    recipe = {"model": str(tiny_model), "task": task, "general": None}
    found = telltune.check(recipe).findings
    assert [(one.line, one.refused) for one in found] == [(2, True), (3, True)]
    assert found[0].reason == "the answer `of` is not in `task.labels`; write `off`, or list it"


def test_listed_labels_decide_the_metrics_however_few_the_answers_are(
    listing: Callable[..., Recipe],
) -> None:
    for labels, metric in ((None, "exact_match"), (["on", "off"], "accuracy")):
        recipe = listing(labels, train="on", test="off")
        found = task_answers(recipe, load_task(recipe))
        assert found.metrics[0] == metric
        assert found.labels == tuple(labels or ())
