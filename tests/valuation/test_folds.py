"""A model that scores an example has seen its label and not its question."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telltune.data.examples import Example
from telltune.errors import DataError
from telltune.valuation.folds import assign_folds


def examples(*pairs: tuple[str, str]) -> list[Example]:
    return [Example(p, c, origin=f"data.jsonl:{i}") for i, (p, c) in enumerate(pairs, 1)]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(2, 5), st.integers(0, 3))
def test_folds_are_even_and_a_prompt_is_in_one_only(
    prompts: list[int], folds: int, seed: int
) -> None:
    given_ = examples(*((str(p), "") for p in prompts))
    if len(set(prompts)) < folds:
        with pytest.raises(DataError, match="too few"):
            assign_folds(given_, folds, seed)
        return
    found = assign_folds(given_, folds, seed)
    by_prompt = {p: found[i] for i, p in enumerate(prompts)}
    assert [by_prompt[p] for p in prompts] == found.tolist()
    sizes = np.bincount(list(by_prompt.values()), minlength=folds)
    assert sizes.max() - sizes.min() <= 1


def test_every_label_is_spread_evenly() -> None:
    given_ = examples(*((str(i), "ab"[i % 5 == 0]) for i in range(50)))
    found = assign_folds(given_, 5, 0, ["a", "b"])
    for label in "ab":
        counts = np.bincount(
            [f for f, e in zip(found, given_, strict=True) if e.completion == label]
        )
        assert counts.max() - counts.min() <= 1


def test_a_label_that_one_fold_holds_alone_is_named() -> None:
    given_ = examples(("1", "a"), ("2", "a"), ("3", "b"), ("4", "a"))
    with pytest.raises(DataError, match=r"label `b` \(1 example, first at data.jsonl:3\)"):
        assign_folds(given_, 2, 0, ["a", "b"])
