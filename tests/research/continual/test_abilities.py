"""Abilities are measured on items that the training data do not contain."""

from __future__ import annotations

import pytest

from telltune.data.examples import Example
from telltune.research.continual.abilities import mean_change, unseen_items


def test_items_in_the_training_data_are_left_out() -> None:
    long = "Which of these four cities on the western coast of the island has the oldest harbor"
    trained = [Example("What is 2 + 2?", "4"), Example(long + "?", "the first")]
    items = [
        Example("what  is 2 + 2?", "4"),
        Example(long + ", please?", "the first"),
        Example("Who wrote the saga of the people of the valley?", "nobody knows"),
    ]
    assert unseen_items(items, trained) == items[2:]
    assert unseen_items(items, []) == items


def test_the_change_of_an_ability_is_the_mean_over_its_tasks() -> None:
    assert mean_change({"sums": [40.0, 30.0], "facts": [50.0, 54.0]}) == pytest.approx(-3)
