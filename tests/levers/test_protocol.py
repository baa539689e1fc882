"""The report of a lever, as a text."""

from __future__ import annotations

from telltune.data.examples import Example
from telltune.levers.protocol import Yield, yield_text


def test_a_yield_says_what_was_made_of_what_and_why_the_rest_was_not() -> None:
    refused = {"not asked": 1200, "too long": 3, "empty": 0}
    got = Yield("mine", (Example("a", "b"),), 1204, refused)
    assert str(got) == "1 examples from 1,204 inputs; refused: not asked (1,200), too long (3)"
    assert yield_text(got.to_dict()) == str(got)
    assert str(Yield("mine", (), 0, {})) == "0 examples from 0 inputs; refused: none"
