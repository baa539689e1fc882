"""Methods train on the examples selected by known or computed scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telltune.api import fit
from telltune.data.task import load_task
from telltune.errors import DataError, RecipeError
from telltune.fitting.selection import choose
from telltune.recipe import SelectionSpec, recipe_from_dict
from telltune.valuation.scores import Scores
from telltune.verification import verify

if TYPE_CHECKING:
    from pathlib import Path

SCORES = np.array([0.5, -1.0, 3.0, 2.0, 0.0])
LEVELS = np.array([2, 0, 4, 3, 1])


def chosen(**settings: Any) -> list[int]:
    return choose(Scores(SCORES, {}, {}, {}, LEVELS), SelectionSpec(**settings)).tolist()


def test_the_easiest_or_the_hardest_are_left_out_and_the_rest_keep_their_order() -> None:
    assert chosen() == [0, 1, 2, 3, 4]
    assert chosen(drop_easiest=0.4) == [0, 1, 4]
    assert chosen(drop_hardest=0.2) == [0, 2, 3, 4]
    assert chosen(drop_easiest=0.2, drop_hardest=0.4) == [0, 3]


def test_a_curriculum_goes_by_score() -> None:
    assert chosen(order="hard_first") == [1, 4, 0, 3, 2]
    assert chosen(order="easy_first") == [2, 3, 0, 4, 1]
    assert chosen(order="easy_first", drop_hardest=0.2) == [2, 3, 0, 4]


def test_levels_and_a_number_of_examples_choose_too() -> None:
    assert chosen(by="memory", levels=[0, 2, 3]) == [0, 1, 3]
    assert chosen(by="memory", levels=[0, 2, 3], examples=2) == [0, 1]
    assert chosen(by="memory", levels=[0, 2, 3], examples=2, order="easy_first") == [0, 1]
    assert chosen(examples=3, order="hard_first") == [1, 0, 2]
    nothing = Scores(SCORES, {}, {}, {}, np.zeros(5, np.int64))
    with pytest.raises(DataError, match="none of 5 examples has one of these levels, only 0"):
        choose(nothing, SelectionSpec(by="memory", levels=[3]))


@given(
    st.lists(st.floats(-9, 9), min_size=1, max_size=30),
    st.floats(0, 0.5, exclude_max=True),
    st.floats(0, 0.5, exclude_max=True),
    st.sampled_from([None, "easy_first", "hard_first"]),
)
def test_none_is_taken_twice_and_no_easier_one_left_out_than_the_hardest_taken(
    scores: list[float], easiest: float, hardest: float, order: Any
) -> None:
    spec = SelectionSpec(drop_easiest=easiest, drop_hardest=hardest, order=order)
    values = np.array(scores)
    taken = choose(Scores(values, {}, {}, {}), spec)
    assert len(set(taken.tolist())) == len(taken) >= 1
    left = np.setdiff1d(np.arange(len(values)), taken)
    low, high = values[taken].min(), values[taken].max()
    assert all(values[i] <= low or values[i] >= high for i in left)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"drop_easiest": 0.5, "drop_hardest": 0.5}, "to leave examples"),
        ({"levels": [1]}, "PVI has none"),
        ({"by": "memory", "levels": [5]}, "from 0 to 4"),
        ({"by": "memory", "templates": ["Who?"]}, "must contain {prompt}"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(selection: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_from_dict({"task": "medical_specialty", "selection": selection})


def test_a_run_trains_on_what_was_chosen_and_says_so(
    toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe = toy_recipe | {"selection": {"folds": 2, "drop_easiest": 0.25, "order": "hard_first"}}
    available = len(load_task(recipe_from_dict(toy_recipe)).train)
    record = fit(recipe, tmp_path / "out", progress=False).record
    selection = record["selection"]
    assert selection["available"] == available
    assert record["counts"]["task_examples"] == len(selection["chosen"])
    assert len(selection["chosen"]) == round(0.75 * available)
    assert record["seconds"] > selection["seconds"] > 0
    assert verify(tmp_path / "out").held
