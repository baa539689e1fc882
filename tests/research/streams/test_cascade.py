"""Cascades on a stream with a known rule, and a function as the largest model."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from telltune.errors import RecipeError
from telltune.research.streams.cascade import TOP, Cascade, Decision, Rung
from telltune.research.streams.levels import LinearLevel
from telltune.research.streams.top import LabeledItem

LABELS = ("fruit", "metal")
WORDS = {"fruit": ("apple", "pear"), "metal": ("iron", "zinc")}


def stream(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    labels = [LABELS[k] for k in rng.integers(0, 2, count)]
    texts = [
        f"{rng.choice(WORDS[label])} w{rng.integers(0, 50)} w{rng.integers(0, 50)}"
        for label in labels
    ]
    return texts, labels


class Oracle:
    """Largest model that is always right, except for calls that fail on purpose."""

    def __init__(self, fails: Any = lambda _: False) -> None:
        self.asked: list[str] = []
        self.fails = fails

    def label(self, text: str) -> LabeledItem:
        self.asked.append(text)
        if self.fails(len(self.asked)):
            return LabeledItem(None, 5, 0.01, "it timed out")
        return LabeledItem(
            next(k for k, words in WORDS.items() if text.split()[0] in words), 9, 0.01
        )


class Watched(LinearLevel):
    """Second level that records what it is asked."""

    name = "second"

    def __init__(self, labels: int) -> None:
        super().__init__(labels)
        self.asked: list[str] = []

    def likelihoods(self, texts: Any) -> Any:
        self.asked += texts
        return super().likelihoods(texts)


def cascade(top: Oracle, *, levels: int = 1, seed: int = 0) -> Cascade:
    rungs = [Rung(LinearLevel(2), cache=8, decay=0.9), Rung(Watched(2), cache=16, decay=0.9)]
    return Cascade(LABELS, rungs[:levels], top, seed=seed)


def plain(decisions: list[Decision]) -> list[tuple[str, str]]:
    return [(decision.label, decision.by) for decision in decisions]


def test_the_top_labels_all_at_first_and_little_in_the_end() -> None:
    top = Oracle()
    texts, labels = stream(1500)
    found = list(cascade(top).feed(texts))
    assert len(found) == 1500
    # Ten updates of eight.
    assert {decision.by for decision in found[:80]} == {TOP}
    last = found[-300:]
    assert Counter(decision.by for decision in last)["linear"] > 200
    right = [d.label == label for d, label in zip(found, labels, strict=True)]
    assert np.mean(right[-300:]) > 0.97
    # The top is not asked about inputs that the linear level answers.
    assert len(top.asked) == sum(decision.by == TOP for decision in found)
    assert sum(decision.tokens for decision in found) == 9 * len(top.asked)


def test_it_hands_on_what_it_cannot_know_and_a_dear_top_is_asked_less() -> None:
    rng = np.random.default_rng(5)
    plain_texts, _ = stream(1200, seed=5)
    # Every other input does not determine its label.
    texts = [text if n % 2 else f"fog w{rng.integers(0, 50)}" for n, text in enumerate(plain_texts)]

    class Knows(Oracle):
        def label(self, text: str) -> LabeledItem:
            self.asked.append(text)
            if text.startswith("fog"):
                return LabeledItem(LABELS[rng.integers(0, 2)], 9, 0.01)
            return super().label(text)

    asked = {}
    for price in (0.3, 5.0):
        top = Knows()
        rungs = [Rung(LinearLevel(2), cache=8, decay=0.9)]
        decisions = list(Cascade(LABELS, rungs, top, price=price).feed(texts))
        asked[price] = sum(decision.by == TOP for decision in decisions)
        late = list(zip(texts, decisions, strict=True))[-400:]
        if price < 1:
            foggy = [d.by == TOP for t, d in late if t.startswith("fog")]
            clear = [d.by == TOP for t, d in late if not t.startswith("fog")]
            assert np.mean(foggy) > 0.8
            assert np.mean(clear) < 0.3
    assert asked[5.0] < asked[0.3] / 2


def test_answers_do_not_depend_on_how_many_are_fed_at_once() -> None:
    texts, _ = stream(600, seed=1)
    # One level only: with more, deferral depends on measured seconds.
    together = list(cascade(Oracle()).feed(texts))
    one = cascade(Oracle())
    assert plain(together) == plain([d for text in texts for d in one.feed([text])])


def test_what_a_lower_level_answers_the_upper_is_not_asked() -> None:
    found = cascade(Oracle(), levels=2)
    texts, _ = stream(1200, seed=2)
    decisions = list(found.feed(texts))
    second = found.rungs[1].level
    assert isinstance(second, Watched)
    answered = [t for t, d in zip(texts, decisions, strict=True) if d.by == "linear"]
    assert len(answered) > 300
    # It learns the top's labels, and sees what is passed on, which is little in the end.
    late = {t for t, d in zip(texts[-300:], decisions[-300:], strict=True) if d.by == "linear"}
    assert len(late & set(second.asked)) < len(late)


def test_a_failing_top_costs_an_answer_of_its_own_and_never_the_stream() -> None:
    top = Oracle(fails=lambda number: number % 5 == 0)
    texts, _ = stream(400, seed=3)
    found = list(cascade(top).feed(texts))
    assert len(found) == 400
    failed = [decision for decision in found if decision.failure]
    assert len(failed) == len(top.asked) // 5 > 0
    assert {decision.by for decision in failed} == {"linear"}
    assert {decision.failure for decision in failed} == {"it timed out"}


def test_a_saved_state_goes_on_as_if_nothing_had_been() -> None:
    texts, _ = stream(700, seed=4)
    whole = list(cascade(Oracle()).feed(texts))
    before = cascade(Oracle())
    head = list(before.feed(texts[:333]))
    after = cascade(Oracle())
    after.restore(before.state())
    assert plain(head + list(after.feed(texts[333:]))) == plain(whole)


def test_another_cascades_state_is_refused() -> None:
    state = cascade(Oracle()).state()
    with pytest.raises(RecipeError, match="levels linear, but this one has linear, second"):
        cascade(Oracle(), levels=2).restore(state)
    with pytest.raises(RecipeError, match="at least two labels"):
        Cascade(["one"], [Rung(LinearLevel(1))], Oracle())
    with pytest.raises(RecipeError, match="one level below the top"):
        Cascade(LABELS, [], Oracle())
