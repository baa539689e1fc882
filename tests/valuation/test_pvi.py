"""PVI has known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from telltune.data.examples import Example, Message
from telltune.valuation.pvi import Pvi, in_context, without_input


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
