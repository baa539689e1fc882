"""Nearest and diverse choices have known answers, also by gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from telltune.data.examples import Example
from telltune.fitting.general_choice import gradients_of, nearest_first, spread_first
from telltune.recipe import LoraSpec


def unit(*angles: float) -> Any:
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32)


def test_the_nearest_come_first_and_of_those_alike_the_first() -> None:
    assert nearest_first(unit(90, 0, 45, 45, 180), unit(10, -10)).tolist() == [1, 2, 3, 0, 4]


def test_a_spread_takes_the_farthest_from_all_before() -> None:
    # After 0, the farthest are 180, then 95 (85 away), 10 (10 away) and 100 (5 away).
    assert spread_first(unit(0, 10, 95, 180, 100)).tolist() == [0, 3, 2, 1, 4]
    assert sorted(spread_first(unit(*range(0, 360, 7))).tolist()) == [*range(52)]
    assert spread_first(unit(5)).tolist() == [0]


def test_gradients_are_nearest_where_the_same_is_learned(tiny_base: Any) -> None:
    shapes = [Example(f"item {n} is round", "ball") for n in range(4)]
    others = [Example("What is the capital of Iceland?", "Reykjavik"), Example("item 9?", "sheet")]
    spec = LoraSpec(rank=4, dropout=0)
    found = gradients_of(tiny_base, [*shapes, *others], spec, seed=0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    cosines = found @ found[0]
    assert cosines[1:4].min() > cosines[4:].max()
    # The base is unchanged.
    assert not any("lora" in name for name, _ in tiny_base.model.named_parameters())
