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
    from telltune.data.files import Split
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

    def rows(out: str, methods: list[Any], split: Split, **task: str) -> dict[str, ResultRow]:
        spec = StudySpec(
            recipe=toy_recipe
            | {
                "task": {"unlabeled": "rest", **task},
                "mixture": {"leverage_ratio": 1.0, "passes": 1},
                "evaluation": {"max_items": 1},
            },
            methods=methods,
            sizes=[300],
        )
        few = ForgettingSpec(examples=4, prompts=0)
        found = run_cells(cells_of(spec), few, tmp_path / out, split=split, progress=False)
        return {row.name: row for row in found}

    # No method can read test items that the recipe does not name.
    task = {name: toy_recipe["task"][name] for name in ("train", "dev")}
    alone = rows("none", methods, "dev", **task)
    assert set(alone) == set(TRAINED)
    for name, row in alone.items():
        assert row.status == ("failed" if name in SPEECHLESS else "done"), row.reason
    # The code that all methods share does read them.
    one = write_jsonl(
        tmp_path / "one.jsonl", [{"prompt": "item 99 is flat", "completion": "sheet"}]
    )
    other = write_jsonl(
        tmp_path / "other.jsonl", [{"prompt": "Who goes?", "completion": "box"}] * 9
    )
    shared = ["tell", "tell_pseudo_label"]
    seen, again = (rows(path.stem, shared, "test", **task, test=str(path)) for path in (one, other))
    for name in shared:
        assert seen[name].status == "done"
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
