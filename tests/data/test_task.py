"""A task's splits: what is held out stays out, whatever the seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from telltune.data.task import load_split, load_task
from telltune.errors import DataError, RecipeError
from telltune.recipe import Recipe, recipe_from_dict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def task_of(tmp_path: Path, write_jsonl: Callable[..., Path]) -> Callable[..., Recipe]:
    """A recipe on rows of so many prompts, each there twice, with a share held out."""

    def build(prompts: int, share: float, seed: int = 0) -> Recipe:
        rows = [{"prompt": f"item {n}", "completion": c} for n in range(prompts) for c in "ab"]
        path = write_jsonl(tmp_path / "rows.jsonl", rows)
        return recipe_from_dict({"task": {"train": str(path), "dev_share": share}, "seed": seed})

    return build


def test_a_held_out_share_is_dev_and_is_not_trained_on(task_of: Callable[..., Recipe]) -> None:
    task = load_task(task_of(20, 0.25))
    dev, train = {e.prompt for e in task.dev}, {e.prompt for e in task.train}
    # Five prompts of twenty, with all that ask the same.
    assert (len(task.dev), len(task.train)) == (10, 30)
    assert (len(dev), len(train)) == (5, 15)
    assert not dev & train


def test_every_seed_holds_out_the_same_examples(task_of: Callable[..., Recipe]) -> None:
    held = [load_split(task_of(20, 0.25, seed), "dev") for seed in (0, 1)]
    assert held[0] == held[1]


def test_a_share_that_leaves_nothing_to_train_on_is_refused(task_of: Callable[..., Recipe]) -> None:
    with pytest.raises(DataError, match=r"dev_share = 0\.9 of 2 prompts leaves none to train on"):
        load_task(task_of(2, 0.9))


@pytest.mark.parametrize(
    "given", [{"embedded": "equation"}, {"train": "a.jsonl", "dev": "b.jsonl"}]
)
def test_a_task_with_dev_data_holds_none_out(given: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"task\.dev_share.*no dev data of its own"):
        recipe_from_dict({"task": given | {"dev_share": 0.2}})
