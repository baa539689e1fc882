"""Cascades on a stream with a known rule, and a function as the largest model."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from telltune.errors import ModelError, RecipeError
from telltune.research.streams.cascade import TOP, Cascade, Decision, PolicyName, Rung
from telltune.research.streams.levels import LinearLevel
from telltune.research.streams.top import LabeledItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LABELS = ("fruit", "metal")
WORDS = {"fruit": ("apple", "pear", "fig"), "metal": ("iron", "zinc", "tin")}
POLICIES: tuple[PolicyName, ...] = ("learned", "threshold", "cost_aware")


def stream(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    labels = [LABELS[k] for k in rng.integers(0, 2, count)]
    texts = [
        f"{rng.choice(WORDS[label])} w{rng.integers(0, 50)} n{place}"
        for place, label in enumerate(labels)
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


class Partial(LinearLevel):
    """Level that knows some words only, and records what it is asked."""

    def __init__(self, name: str, words: Sequence[str]) -> None:
        super().__init__(2)
        self.name = name
        self.words = words
        self.asked: list[str] = []

    def seen(self, texts: Sequence[str]) -> list[str]:
        return [word if (word := text.split()[0]) in self.words else "fog" for text in texts]

    def likelihoods(self, texts: Sequence[str]) -> NDArray[np.float64]:
        self.asked += texts
        return super().likelihoods(self.seen(texts))

    def learn(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        super().learn(self.seen(texts), labels)


def cascade(
    top: Any, *, levels: int = 1, policy: PolicyName = "learned", seed: int = 0, **settings: Any
) -> Cascade:
    """Return a cascade whose lowest level knows a third of the words, and whose third one all."""
    known = [[words[i] for words in WORDS.values() for i in range(n + 1)] for n in range(3)]
    rungs = [
        Rung(Partial(name, words), cache=cache, decay=0.9, cost=cost)
        for name, words, cache, cost in zip(
            ("first", "second", "third"), known, (8, 16, 24), (0.01, 0.02, 0.03), strict=True
        )
    ]
    kept = rungs[-levels:] if levels == 1 else rungs[:levels]
    return Cascade(LABELS, kept, top, policy=policy, seed=seed, **settings)


def plain(decisions: Sequence[Decision]) -> list[tuple[str, str]]:
    return [(decision.label, decision.by) for decision in decisions]


def test_the_top_labels_all_at_first_and_little_in_the_end() -> None:
    top = Oracle()
    texts, labels = stream(1500)
    found = list(Cascade(LABELS, [Rung(LinearLevel(2), decay=0.9)], top).feed(texts))
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


@pytest.mark.parametrize("policy", POLICIES)
def test_answers_do_not_depend_on_how_many_are_fed_at_once(policy: PolicyName) -> None:
    texts, _ = stream(600, seed=1)
    together = list(cascade(Oracle(), levels=2, policy=policy).feed(texts))
    one = cascade(Oracle(), levels=2, policy=policy)
    assert plain(together) == plain([d for text in texts for d in one.feed([text])])
    assert {decision.by for decision in together} == {"first", "second", TOP}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_level_is_asked_once_about_each_input_that_reaches_it(policy: PolicyName) -> None:
    found = cascade(Oracle(), levels=3, policy=policy)
    texts, _ = stream(1500, seed=2)
    decisions = list(found.feed(texts))
    answered = {decision.by for decision in decisions}
    # The cheapest thresholds may skip a level.
    assert answered == {"first", "second", "third", TOP} or policy == "cost_aware"
    reached = list(zip(texts, decisions, strict=True))
    for rung in found.rungs:
        assert isinstance(rung.level, Partial)
        needed = [text for text, _ in reached]
        asked = rung.level.asked
        # While a level may not answer, it is asked only about what the top labels anyway.
        spared = set(needed) - set(asked)
        assert len(asked) == len(set(asked)) == len(needed) - len(spared)
        assert found.asked[found.rungs.index(rung)] == len(asked)
        if policy == "learned":
            assert not spared
        reached = [(text, decision) for text, decision in reached if decision.by != rung.level.name]
    assert {decision.by for _, decision in reached} == {TOP}


def test_seconds_of_all_levels_and_updates_are_charged() -> None:
    class Slow(Partial):
        def likelihoods(self, texts: Sequence[str]) -> NDArray[np.float64]:
            time.sleep(0.001 * len(texts))
            return super().likelihoods(texts)

        def learn(self, texts: Sequence[str], labels: Sequence[int]) -> None:
            time.sleep(0.01)
            super().learn(texts, labels)

    rungs = [Rung(Slow("slow", ["apple", "iron"])), Rung(Partial("second", ["pear"]))]
    began = time.perf_counter()
    found = list(Cascade(LABELS, rungs, Oracle(), policy="threshold").feed(stream(150)[0]))
    spent = time.perf_counter() - began
    charged = sum(decision.seconds for decision in found)
    assert 0.001 * 150 + 0.01 * (150 // 8) < charged <= spent


def test_a_failing_top_costs_an_answer_of_its_own_and_never_the_stream() -> None:
    top = Oracle(fails=lambda number: number % 5 == 0)
    texts, labels = stream(600, seed=3)
    found = list(cascade(top, levels=3).feed(texts))
    assert len(found) == 600
    failed = [place for place, decision in enumerate(found) if decision.failure]
    assert len(failed) == len(top.asked) // 5 > 0
    assert {found[place].failure for place in failed} == {"it timed out"}
    # The third level knows all words, and the others do not.
    late = [place for place in failed if place > 100]
    assert {found[place].by for place in late} == {"third"}
    assert all(found[place].label == labels[place] for place in late)


def test_a_level_that_never_pays_still_answers_if_the_top_fails() -> None:
    top = Oracle(fails=lambda number: number > 300)
    level = Partial("dear", [word for words in WORDS.values() for word in words])
    made = Cascade(LABELS, [Rung(level, cost=1.0)], top, policy="cost_aware", agreement=0.9)
    texts, labels = stream(400, seed=7)
    found = list(made.feed(texts))
    assert {decision.by for decision in found[:300]} == {TOP}
    assert {decision.by for decision in found[300:]} == {"dear"}
    assert [decision.label for decision in found[300:]] == labels[300:]
    # Before, it is asked about the sample only.
    assert len(set(level.asked) & set(texts[100:300])) < 40


def test_an_error_of_the_top_keeps_all_answers_before_it() -> None:
    class Refusing(Oracle):
        def label(self, text: str) -> LabeledItem:
            if len(self.asked) == 150:
                self.asked.append("")
                raise ModelError("the key is not valid.")
            return super().label(text)

    texts, _ = stream(600, seed=6)
    stopped = cascade(Refusing())
    found: list[Decision] = []
    with pytest.raises(ModelError, match="key is not valid"):
        found.extend(stopped.feed(texts))
    assert stopped.seen == len(found) >= 150
    found += stopped.feed(texts[len(found) :])
    assert plain(found) == plain(list(cascade(Oracle()).feed(texts)))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_saved_state_goes_on_as_if_nothing_had_been(policy: PolicyName) -> None:
    texts, _ = stream(700, seed=4)
    whole = list(cascade(Oracle(), levels=2, policy=policy).feed(texts))
    before = cascade(Oracle(), levels=2, policy=policy)
    head = list(before.feed(texts[:333]))
    after = cascade(Oracle(), levels=2, policy=policy)
    after.restore(before.state())
    assert plain(head + list(after.feed(texts[333:]))) == plain(whole)


def test_another_cascades_state_is_refused() -> None:
    state = cascade(Oracle(), levels=2).state()
    with pytest.raises(RecipeError, match="levels first, second, but this one has third"):
        cascade(Oracle()).restore(state)
    with pytest.raises(RecipeError, match="policy learned, but this one has threshold"):
        cascade(Oracle(), levels=2, policy="threshold").restore(state)
    with pytest.raises(RecipeError, match="at least two labels"):
        Cascade(["one"], [Rung(LinearLevel(1))], Oracle())
    with pytest.raises(RecipeError, match="one level below the top"):
        Cascade(LABELS, [], Oracle())
