"""PVI has known answers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from telltune.data.examples import Example, Message
from telltune.errors import DataError
from telltune.models import context_length
from telltune.recipe import SelectionSpec, recipe_from_dict
from telltune.valuation.pvi import Pvi, in_context, pvi_scores, without_input


def test_bits_are_what_the_input_saves() -> None:
    # Half as likely without the input is one bit. Less likely with it is negative.
    with_input = -np.log([0.5, 0.25, 0.125])
    empty = -np.log([0.25, 0.25, 0.25])
    pvi = Pvi.of_nats(with_input, empty, np.array([1, 2, 2]), np.array([0, 1, 0]))
    np.testing.assert_allclose(pvi.bits, [1, 0, -1], atol=1e-12)
    np.testing.assert_allclose(pvi.bits_per_token, [1, 0, -0.5], atol=1e-12)
    assert pvi.information == pytest.approx(0)
    assert math.isclose(pvi.with_input[2], 3)


def test_without_input_nothing_but_the_answer_is_left() -> None:
    example = Example("q", "a", history=(Message("user", "before"),))
    assert without_input([example]) == [Example("", "a")]


def test_exemplars_come_from_other_folds() -> None:
    examples = [Example(f"q{i}", f"a{i}") for i in range(6)]
    fold = np.array([0, 0, 1, 1, 2, 2])
    shown = in_context(examples, fold, 3, seed=0)
    for i, example in enumerate(shown):
        assert (example.prompt, example.completion) == (f"q{i}", f"a{i}")
        asked = [turn.content for turn in example.history if turn.role == "user"]
        assert len(asked) == 3
        assert not {f"q{j}" for j in range(6) if fold[j] == fold[i]} & set(asked)
        told = [turn.content for turn in example.history if turn.role == "assistant"]
        assert [t.replace("a", "q") for t in told] == asked


def test_what_is_too_long_says_whether_exemplars_or_the_example_make_it_so(
    toy_recipe: dict[str, Any], tiny_base: Any
) -> None:
    toy_recipe["training"] |= {"too_long": "truncate"}
    recipe = recipe_from_dict(toy_recipe | {"method": "sft", "mixture": {"passes": 1}})
    context = context_length(tiny_base.model.config)
    words = [f"{n} " + "a b " * (context // 8) for n in range(4)]
    examples = [Example(text, "x", origin=f"l.jsonl:{n}") for n, text in enumerate(words)]
    shots = SelectionSpec(folds=4, in_context=3)
    with pytest.raises(DataError, match=r"l.jsonl:0: .* with 3 exemplars .*lower selection.in"):
        pvi_scores(tiny_base, examples, None, recipe, shots)
    long = [replace(examples[0], completion="a b " * context), *examples[1:]]
    with pytest.raises(DataError, match=r"l.jsonl:0: .*\(1 of 4 are\); shorten the examples\.$"):
        pvi_scores(tiny_base, long, None, recipe, SelectionSpec(folds=2))
