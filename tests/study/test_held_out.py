"""Test items do not affect what a method learns or which settings it chooses."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from telltune.fitting.predictor import Cost
from telltune.methods.registry import get_method, method_names
from telltune.study.runner import run_cells
from telltune.study.spec import ForgettingSpec, StudySpec, cells_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from chat_server import ChatServer
    from telltune.study.results import ResultRow

TRAINED = [name for name in method_names() if get_method(name).trains]
SPEECHLESS = {"self_guide", "tell_self_guide"}
"""Methods that keep nothing of what the tiny model generates; they read their data before."""
COSTS = [one.name for one in fields(Cost)]


@pytest.mark.timeout(600)
def test_training_is_the_same_whatever_the_test_items_say(
    toy_recipe: dict[str, Any],
    tmp_path: Path,
    write_jsonl: Callable[..., Path],
    tiny_encoder: Path,
    server: ChatServer,
    short_chains: None,
) -> None:
    toy_recipe["teacher"] = {"url": server.url, "model": "large"}
    keys = {
        "synthesis.rounds": 1,
        "synthesis.samples": 2,
        "selection.folds": 2,
        "general_choice.candidates": 150,
        "general_choice.embedding_model": str(tiny_encoder),
        "meta.steps": 2,
        "meta.inner_steps": 1,
        "meta.batch_size": 4,
    }
    # Two sources, since initial weights are meta-learned on several.
    lines = Path(toy_recipe["general"]).read_text().splitlines(keepends=True)
    general = [tmp_path / "general-1.jsonl", tmp_path / "general-2.jsonl"]
    for i, path in enumerate(general):
        path.write_text("".join(lines[i::2]))
    toy_recipe["general"] = [str(path) for path in general]
    methods = [
        {"method": name, "name": name, "set": {k: v for k, v in keys.items() if fits(name, k)}}
        for name in TRAINED
    ]

    def rows(test: Path, out: Path) -> dict[str, ResultRow]:
        task = toy_recipe["task"] | {"test": str(test), "unlabeled": "rest"}
        mixture = {"leverage_ratio": 1.0, "passes": 1}
        recipe = toy_recipe | {"task": task, "mixture": mixture}
        recipe["evaluation"] = {"max_new_tokens": 4}
        spec = StudySpec(recipe=recipe, methods=methods, sizes=[300])
        found = run_cells(
            cells_of(spec), ForgettingSpec(examples=4, prompts=0), out, progress=False
        )
        return {row.name: row for row in found}

    one = write_jsonl(
        tmp_path / "one.jsonl", [{"prompt": "item 99 is flat", "completion": "sheet"}]
    )
    other = write_jsonl(
        tmp_path / "other.jsonl", [{"prompt": "Who goes?", "completion": "box"}] * 9
    )
    seen, again = rows(one, tmp_path / "a"), rows(other, tmp_path / "b")
    assert set(seen) == set(TRAINED)
    for name in TRAINED:
        wanted = "failed" if name in SPEECHLESS else "done"
        assert (seen[name].status, again[name].status) == (wanted, wanted), seen[name].reason
        assert seen[name].reason == again[name].reason
        assert seen[name].key != again[name].key
        assert learned(seen[name]) == learned(again[name])


def learned(row: ResultRow) -> list[Any]:
    """Return what a row says about the training and about forgetting, not about answering."""
    counts = {name: count for name, count in row.counts.items() if name in COSTS}
    return [row.curve, counts, row.forgetting]


def fits(name: str, key: str) -> bool:
    """Return whether a method's own settings include a part of a recipe."""
    sets = getattr(get_method(name), "overrides", ())
    return any(own.split(".")[0] == key.split(".")[0] for own, _ in sets)
