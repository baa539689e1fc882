"""TRACE's files are read as they are, and each of its eight tasks is scored as in the paper."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from telltune.data.task import load_split, load_task
from telltune.errors import DataError, RecipeError
from telltune.evaluation.metrics import get_metric
from telltune.recipe import recipe_from_dict
from telltune.research.continual.spec import load_continual
from telltune.study.spec import merged_keys

if TYPE_CHECKING:
    from pathlib import Path

# One item of each task, in the form of the published files.
ITEMS = {
    "C-STANCE": (
        "判断以下文本对指定对象的态度，选择一项：A.支持，B.反对，C.中立。\n文本：好。\n对象：它\n态度：",
        "A",
    ),
    "FOMC": (
        (
            "What is the monetary policy stance for the following text? A. dovish, B. hawkish, "
            "C. neutral. Choose one from A, B and C.\nText: Wages rise.\nStance:"
        ),
        "B",
    ),
    "MeetingBank": (
        (
            "Write a summary of the following meeting transcripts.\nMeeting transcripts:\nItem one."
            "\nSummary:"
        ),
        "Recommendation to adopt item one.",
    ),
    "Py150": (
        "<s> import os <EOL> def size ( path ) : <EOL>",
        "return os . stat ( path ) [ <NUM_LIT:6> ]",
    ),
    "ScienceQA": (
        (
            "Choose an answer for the following question and give your reasons.\n\nQuestion: Which "
            "floats?\nChoices:\nA. stone\nB. wood\n"
        ),
        "Answer: B\nBecause Wood is lighter than water.",
    ),
    "NumGLUE-cm": ("Solve the following math problem.\nQuestion: How many legs?\nAnswer:", "4"),
    "NumGLUE-ds": ("Solve the following math problem.\nQuestion: What is 3 + 4?\nAnswer:", "7.0"),
    "20Minuten": (
        (
            "Provide a simplified version of the following paragraph in German.\n\nParagraph:\nDie "
            "Straße ist gesperrt worden.\nSimplified:\n"
        ),
        "Die Straße ist zu.",
    ),
}


@pytest.fixture
def order(tmp_path: Path) -> Path:
    for name, (prompt, answer) in ITEMS.items():
        folder = tmp_path / "LLM-CL-Benchmark_5000" / name
        folder.mkdir(parents=True)
        rows = [{"prompt": f"{prompt} {n}", "answer": answer} for n in range(6)]
        for split in ("train", "eval", "test"):
            text = json.dumps(rows, ensure_ascii=False)
            (folder / f"{split}.json").write_text(text, encoding="utf-8")
    values = {
        "recipe": {"general": "embedded", "evaluation": {"max_items": 4}},
        "trace": {"folder": "LLM-CL-Benchmark_5000", "max_examples": 5},
    }
    path = tmp_path / "trace.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_its_eight_tasks_are_read_and_scored_as_published(order: Path) -> None:
    spec = load_continual(order)
    assert [task.name for task in spec.tasks] == list(ITEMS)
    scores = {}
    for entry in spec.tasks:
        keys = merged_keys(spec.recipe, entry.keys)
        recipe = recipe_from_dict(keys, name="trace", folder=order.parent)
        task, test = load_task(recipe), load_split(recipe, "test")
        assert len(task.train) == 5
        assert not task.dev
        assert task.anchor is None
        assert recipe.evaluation.max_items == 4
        [name] = recipe.evaluation.metrics or []
        prompts, gold = [e.prompt for e in test], [e.completion for e in test]
        assert (prompts[0], gold[0]) == (f"{ITEMS[entry.name][0]} 0", ITEMS[entry.name][1])
        metric = get_metric(name)
        # By SARI's definition, a word that stands twice in the source and once in the answer is
        # deleted wrongly.
        assert metric(gold, gold, prompts).score == pytest.approx(100, abs=name == "sari")
        # A half of each answer is wrong, but free texts get a part of the score.
        half = [text[: len(text) // 2] for text in gold]
        scores[entry.name] = metric(half, gold, prompts).score
    free = {"MeetingBank", "Py150", "20Minuten"}
    assert {name for name, score in scores.items() if 0 < score < 100} == free
    # The letter of ScienceQA stands in the first half.
    assert scores["ScienceQA"] == 100


def test_a_missing_split_is_named(order: Path) -> None:
    (order.parent / "LLM-CL-Benchmark_5000" / "FOMC" / "test.json").unlink()
    with pytest.raises(DataError, match=r"FOMC/test\.json is missing; restore it, or name the"):
        load_continual(order)


def test_its_folder_can_be_given_alone(order: Path) -> None:
    order.write_text("recipe: {}\ntrace: LLM-CL-Benchmark_5000\n")
    tasks = load_continual(order).tasks
    assert tasks[0].keys["task"]["max_examples"] is None
    order.write_text("recipe: {}\n")
    with pytest.raises(RecipeError, match="give two or more `tasks`, or `trace`"):
        load_continual(order)
