"""Nothing that a method learns from or is chosen by comes from the test items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from telltune.methods.registry import get_method, method_names
from telltune.study.runner import run_cells
from telltune.study.spec import ForgettingSpec, StudySpec, cells_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from telltune.study.results import Row

TRAINED = [name for name in method_names() if get_method(name).trains]
LEARNED = ("curve", "counts", "forgetting")
"""What a row says of the training, and of the trained model beside its task."""


@pytest.mark.timeout(600)
def test_training_is_the_same_whatever_the_test_items_say(
    toy_recipe: dict[str, Any], tmp_path: Path, write_jsonl: Callable[..., Path]
) -> None:
    def rows(test: Path, out: Path) -> dict[str, Row]:
        task = toy_recipe["task"] | {"test": str(test)}
        mixture = {"leverage_ratio": 1.0, "passes": 1}
        spec = StudySpec(
            recipe=toy_recipe | {"task": task, "mixture": mixture}, methods=TRAINED, sizes=[300]
        )
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
        assert seen[name].status == again[name].status == "done"
        assert seen[name].key != again[name].key
        assert [getattr(seen[name], k) for k in LEARNED] == [
            getattr(again[name], k) for k in LEARNED
        ]
