"""The written recipe is one that `tell check` and `tell plan` accept."""

from __future__ import annotations

import csv
import json
import random
import shutil
import sys
from functools import partial
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import telltune
from telltune.cli import main
from telltune.errors import DataError, StorageError
from telltune.proposal.recipe_of import recipe_of
from telltune.proposal.write import write_recipe as written
from telltune.recipe import Columns, load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from telltune.proposal.write import Proposal

TEAMS = ["billing", "shipping", "returns", "technical"]


def tickets(count: int) -> list[dict[str, str]]:
    draw = random.Random(1)
    return [
        {"text": f"{' '.join(draw.choices(ascii_lowercase, k=9))} {n}", "team": TEAMS[n % 4]}
        for n in range(count)
    ]


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def shapes(numbers: range) -> list[dict[str, str]]:
    answers = {"round": "ball", "square": "box", "flat": "sheet"}
    return [
        {"prompt": f"item {n} is {kind}", "completion": answers[kind]}
        for n in numbers
        for kind in [list(answers)[n % 3]]
    ]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["tell", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        main()
    return done.value.code


WITHOUT_GENERAL = ["general=null", "method=sft_anchor"]


@pytest.fixture
def write_recipe(tiny_model: Path) -> Callable[..., Proposal]:
    """`telltune.write_recipe` for the tiny model."""
    return partial(written, model=str(tiny_model))


def test_a_csv_becomes_parts_and_a_recipe_that_passes(
    tmp_path: Path, write_recipe: Callable[..., Proposal], tiny_model: Path
) -> None:
    rows = tickets(80)
    done = write_recipe(write_csv(tmp_path / "tickets.csv", rows), tmp_path / "new")
    assert done.counts == {"train": 64, "test": 16}
    assert done.told == "80 examples, 4 labels, columns text → team"
    assert done.notes == ("There is no dev part below 300 different prompts.",)
    assert done.warnings == ()
    assert done.anchor == (
        "Classify the text. Reply with one of these and nothing else: billing, returns, shipping, "
        "technical."
    )
    parts = {part: lines(tmp_path / "new" / f"{part}.jsonl") for part in done.counts}
    assert sorted(map(str, [*parts["train"], *parts["test"]])) == sorted(map(str, rows))
    assert not (tmp_path / "new" / "dev.jsonl").exists()
    recipe = load_recipe(done.recipe)
    assert recipe.model.name == str(tiny_model)
    assert recipe.anchor is not None
    assert recipe.anchor.prompt == done.anchor
    counts, findings = telltune.check(load_recipe(done.recipe, WITHOUT_GENERAL))
    assert (counts, findings) == (done.counts, [])
    plan = telltune.plan(load_recipe(done.recipe, WITHOUT_GENERAL), measure=False)
    assert plan["task_examples"] == 64


@pytest.mark.parametrize("indent", [None, 1])
def test_every_row_of_a_json_document_is_kept_however_its_lines_break(
    indent: int | None, tmp_path: Path, write_recipe: Callable[..., Proposal]
) -> None:
    rows = tickets(60)
    (tmp_path / "tickets.json").write_text(json.dumps(rows, indent=indent))
    done = write_recipe(tmp_path / "tickets.json", tmp_path / "new")
    assert done.told == "60 examples, 4 labels, columns text → team"
    parts = [row for part in done.counts for row in lines(tmp_path / "new" / f"{part}.jsonl")]
    assert sorted(map(str, parts)) == sorted(map(str, rows))
    assert set(done.counts) == {"train", "test"}


def test_the_order_of_the_rows_changes_nothing(
    tmp_path: Path, write_recipe: Callable[..., Proposal]
) -> None:
    rows = tickets(60)
    write_recipe(write_csv(tmp_path / "a.csv", rows), tmp_path / "one")
    random.Random(2).shuffle(rows)
    write_recipe(write_csv(tmp_path / "b.csv", rows), tmp_path / "two")
    for part in ("train.jsonl", "test.jsonl"):
        assert (tmp_path / "one" / part).read_bytes() == (tmp_path / "two" / part).read_bytes()


def test_named_files_are_used_as_they_are(
    tmp_path: Path, write_jsonl: Callable[..., Path], write_recipe: Callable[..., Proposal]
) -> None:
    train = write_jsonl(tmp_path / "shapes-train.jsonl", shapes(range(24)))
    test = write_jsonl(tmp_path / "shapes_test.jsonl", shapes(range(24, 36)))
    done = write_recipe([train, test], tmp_path)
    assert done.counts == {"train": 24, "test": 12}
    values = yaml.safe_load(done.recipe.read_text(encoding="utf-8"))
    labels = ["ball", "box", "sheet"]
    files = {"train": "shapes-train.jsonl", "test": "shapes_test.jsonl"}
    assert values["task"] == files | {"labels": labels}
    assert {path.name for path in tmp_path.iterdir()} == {train.name, test.name, "recipe.yaml"}
    away = write_recipe([train, test], tmp_path / "recipes" / "mine")
    assert load_recipe(away.recipe).task.test == load_recipe(done.recipe).task.test


def test_a_folder_with_named_files_is_used_as_it_is(
    tmp_path: Path, write_jsonl: Callable[..., Path], write_recipe: Callable[..., Proposal]
) -> None:
    (tmp_path / "shapes").mkdir()
    write_jsonl(tmp_path / "shapes" / "train.jsonl", shapes(range(24)))
    write_jsonl(tmp_path / "shapes" / "validation.jsonl", shapes(range(24, 30)))
    done = write_recipe(tmp_path / "shapes", tmp_path)
    assert done.counts == {"train": 24, "dev": 6}
    task = load_recipe(done.recipe).task
    assert task.train == task.dev
    assert task.test is None


def test_leaks_in_named_files_are_told(
    tmp_path: Path, write_jsonl: Callable[..., Path], write_recipe: Callable[..., Proposal]
) -> None:
    write_jsonl(tmp_path / "train.jsonl", shapes(range(24)))
    write_jsonl(tmp_path / "test.jsonl", shapes(range(20, 30)))
    done = write_recipe([tmp_path / "train.jsonl", tmp_path / "test.jsonl"], tmp_path)
    assert len(done.warnings) == 1
    assert done.warnings[0].startswith("`tell check` refuses 4 rows, such as ")


@pytest.mark.parametrize(
    ("answers", "told", "anchor"),
    [
        (
            lambda n: json.dumps({"team": TEAMS[n % 4], "order": n}),
            "JSON",
            "Reply with a JSON object with the keys team, order and nothing else.",
        ),
        (lambda n: f"{n}", "short answers", "Reply with the short answer and nothing else."),
        (
            lambda n: f"Thank you, we have looked at number {n} and will write again.",
            "free text",
            "Write the reply and nothing else.",
        ),
    ],
    ids=["JSON", "short", "text"],
)
def test_the_anchor_follows_from_the_kind_of_answers(
    tmp_path: Path,
    answers: Callable[[int], str],
    told: str,
    anchor: str,
    write_recipe: Callable[..., Proposal],
) -> None:
    rows = [{"ticket": row["text"], "reply": answers(n)} for n, row in enumerate(tickets(30))]
    done = write_recipe(write_csv(tmp_path / "all.csv", rows), tmp_path)
    assert done.told == f"30 examples, {told}, columns ticket → reply"
    assert done.anchor == f"Read the ticket. {anchor}"
    recipe = load_recipe(done.recipe)
    assert recipe.anchor is not None
    assert recipe.anchor.prompt == done.anchor


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (["P: urgent", "no", "#later", "don't"], ["#later", "P: urgent", "don't", "no"]),
        (["P1", "P2", "P3", "later"], None),
        ([f"team of {letter}" for letter in ascii_lowercase[:21]], None),
    ],
    ids=["words", "codes", "many"],
)
def test_labels_whose_names_say_something_are_listed(
    tmp_path: Path,
    names: list[str],
    listed: list[str] | None,
    write_recipe: Callable[..., Proposal],
) -> None:
    rows = [
        {"text": row["text"], "team": names[n % len(names)]} for n, row in enumerate(tickets(84))
    ]
    done = write_recipe(write_csv(tmp_path / "all.csv", rows), tmp_path)
    labels = load_recipe(done.recipe).task.labels
    assert (labels and list(labels)) == listed


def test_long_examples_get_the_length_that_they_need(
    tmp_path: Path, write_recipe: Callable[..., Proposal], tiny_model: Path
) -> None:
    rows = tickets(24)
    rows[3]["text"] = " ".join(f"word{n}" for n in range(600))
    reader = shutil.copytree(tiny_model, tmp_path / "reader")
    config = json.loads((reader / "config.json").read_text())
    (reader / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    done = write_recipe(write_csv(tmp_path / "all.csv", rows), tmp_path, model=str(reader))
    assert load_recipe(done.recipe).training.max_length in (4096, 8192)
    assert done.warnings == ()


def test_no_length_beyond_the_models_context_is_proposed(
    tmp_path: Path, write_recipe: Callable[..., Proposal]
) -> None:
    rows = tickets(24)
    rows[3]["text"] = " ".join(f"word{n}" for n in range(600))
    done = write_recipe(write_csv(tmp_path / "all.csv", rows), tmp_path)
    assert "max_length" not in done.recipe.read_text()
    assert any("exceed the model's context of 512" in warning for warning in done.warnings)


def test_nothing_is_replaced(tmp_path: Path, write_recipe: Callable[..., Proposal]) -> None:
    data = write_csv(tmp_path / "all.csv", tickets(24))
    (tmp_path / "test.jsonl").write_text("mine")
    with pytest.raises(StorageError, match=r"test\.jsonl would be replaced; choose another --out"):
        write_recipe(data, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"all.csv", "test.jsonl"}


@pytest.mark.parametrize("names", [["all"], ["train", "test"]])
def test_conversations_of_several_turns_are_counted_as_such(
    tmp_path: Path,
    names: list[str],
    write_jsonl: Callable[..., Path],
    write_recipe: Callable[..., Proposal],
) -> None:
    texts = [row["text"] for row in tickets(60)]
    rows = [
        {
            "messages": [
                {"role": role, "content": f"{text} {n}"} for n in (1, 2) for role, text in two
            ]
        }
        for two in ([("user", text), ("assistant", text[::-1])] for text in texts)
    ]
    share = len(rows) // len(names)
    files = [
        str(write_jsonl(tmp_path / f"{name}.jsonl", rows[n * share : (n + 1) * share]))
        for n, name in enumerate(names)
    ]
    done = write_recipe(files, tmp_path / "new")
    assert done.told.startswith("60 conversations (120 examples), ")
    assert sum(done.counts.values()) == 60


def test_files_of_two_layouts_are_refused(
    tmp_path: Path, write_jsonl: Callable[..., Path], write_recipe: Callable[..., Proposal]
) -> None:
    one = write_csv(tmp_path / "one.csv", tickets(24))
    two = write_jsonl(tmp_path / "two.jsonl", shapes(range(24)))
    with pytest.raises(DataError, match="the files have different columns"):
        write_recipe([one, two], tmp_path / "new")
    train = write_csv(tmp_path / "train.csv", tickets(24))
    test = write_csv(tmp_path / "test.csv", tickets(8))
    with pytest.raises(DataError, match=r"two\.jsonl names no split, but .*train\.csv does"):
        write_recipe([train, test, two], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_given_columns_are_used(tmp_path: Path, write_recipe: Callable[..., Proposal]) -> None:
    rows = [row | {"ort": "x" if row["team"] == "billing" else "y"} for row in tickets(24)]
    done = write_recipe(
        write_csv(tmp_path / "all.csv", rows),
        tmp_path,
        columns=Columns(prompt="text", completion="ort"),
    )
    assert done.told == "24 examples, 2 labels, columns text → ort"
    [told] = done.warnings
    assert told == (
        "task: not read: `team` (24 of 24 rows); put the content into the prompt, or set the "
        "columns to read in the recipe's `columns`."
    )


def test_init_prints_the_next_commands(
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, recipe = write_csv(tmp_path / "all.csv", tickets(40)), tmp_path / "my new" / "recipe.yaml"
    assert run(monkeypatch, "init", data, "--out", recipe.parent, "--model", tiny_model) == 0
    printed = capsys.readouterr().out
    assert f"{data}: 40 examples, 4 labels, columns text → team.\n32 train, 8 test." in printed
    assert printed.endswith(
        f"The recipe is {recipe}. Next:\n  tell check '{recipe}'\n"
        f"  tell compare '{recipe}' --out runs/compared\n  tell fit '{recipe}' --out runs/mine\n"
    )
    assert run(monkeypatch, "check", recipe, "--set", "general=null") == 0


def test_fit_guesses_the_settings_for_data(
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_csv(tmp_path / "all.csv", tickets(24))
    recipe, told = recipe_of(data)
    assert recipe.model.name == "embedded"
    assert list(recipe.task.labels or ()) == sorted(TEAMS)
    assert told.startswith(
        f"{data} is no recipe, so the settings are guessed: 24 examples, 4 labels, columns text → "
        "team; anchor 'Classify the text."
    )
    settings = [f"model={tiny_model}", *WITHOUT_GENERAL, "mixture.passes=1"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert run(monkeypatch, "show", data, "-n", "1", *arguments) == 0
    shown = capsys.readouterr()
    assert "so the settings are guessed" in shown.err
    assert "Classify the text." in shown.out
    out = tmp_path / "out"
    assert run(monkeypatch, "fit", data, "--out", out, *arguments) == 0
    assert capsys.readouterr().err.count("so the settings are guessed") == 1
    record = json.loads((out / "tell.json").read_text())
    assert record["counts"]["task_examples"] == 24
    assert record["anchor"]["prompt"].startswith("Classify the text.")
