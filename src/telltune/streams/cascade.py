"""Online cascade learning (Nie et al., arXiv 2402.04513): the cheap answer, where it will do.

Each input meets the levels from the cheapest up, and below the top each may hand it on. At first
the top labels everything; every level keeps what the top has labelled, and learns a batch of it
whenever its cache is full. With each update a level may act more often: it answers if its deferral
network says so *and* a coin of chance 1 - γ^updates does. What no level answers the top labels, and
an input never meets the levels above the one that answers it.

The top may fail. It has been asked twice by then; the lowest level's likeliest label is the answer,
the record says so, and nobody learns from it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.errors import RecipeError
from telltune.streams.deferral import Deferral

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from telltune.streams.levels import Level
    from telltune.streams.top import Top

__all__ = ["TOP", "Cascade", "Decision", "Rung"]

TOP = "top"
_TOGETHER = 32
_WARM_UPDATES = 10
"""The published warm-up: the top labels everything until each level has had so many."""
_STEPS = 8
"""Of the deferral networks, each time the lowest level learns; short streams need more than one."""
_REPLAYED = 24
"""Earlier inputs beside the newest in each of them."""
_KEPT = 512
"""Inputs to draw those from, the latest that the top has labelled."""


@dataclass(frozen=True)
class Rung:
    """One level below the top, and how it takes its place; IMDB's published values by default.

    Attributes:
        level: The model.
        cache: Labelled inputs that make an update.
        decay: γ.
        calibration: Of its deferral: how much it has to be wrong to hand on.
    """

    level: Level
    cache: int = 8
    decay: float = 0.97
    calibration: float = 0.4


@dataclass(frozen=True)
class Decision:
    """What became of one input.

    Attributes:
        label: The answer.
        by: The level that gave it.
        seconds: That this input took, learning included.
        tokens: That the top read and wrote.
        failure: Why the top gave no label, where it was asked and gave none.
    """

    label: str
    by: str
    seconds: float
    tokens: int = 0
    failure: str = ""


@dataclass
class _Costs:
    """Mean seconds that an input takes at each level, the top last."""

    seconds: list[float]
    inputs: list[int]

    def add(self, level: int, seconds: float, inputs: int) -> None:
        self.seconds[level] += seconds
        self.inputs[level] += inputs

    def above(self) -> list[float]:
        """What the next level costs, for each level, in units of the top."""
        means = [s / max(n, 1) for s, n in zip(self.seconds, self.inputs, strict=True)]
        top = means[-1] or 1.0
        return [min(mean / top, 1.0) for mean in means[1:]]


@dataclass
class Cascade:
    """A cascade that is fed inputs and learns from them.

    Example:
        >>> cascade = Cascade(["spam", "fine"], [Rung(LinearLevel(2))], top)
        >>> for decision in cascade.feed(["win a prize now", "see you at nine"]):
        ...     print(decision.label, decision.by)

    Attributes:
        labels: What an input may be.
        rungs: From the cheapest up.
        top: Labels what they hand on.
        price: μ: what a call to the top may cost, in nats of prediction loss.
        seed: Of the coins, and of the deferral networks' start.
    """

    labels: Sequence[str]
    rungs: Sequence[Rung]
    top: Top
    price: float = 0.5
    seed: int = 0
    seen: int = field(default=0, init=False)
    """Inputs so far."""
    updates: list[int] = field(init=False)
    """Of each level."""

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise RecipeError("a cascade needs two labels or more, each once.")
        if not self.rungs:
            raise RecipeError("a cascade needs a level below the top.")
        self.updates = [0] * len(self.rungs)
        self._caches: list[list[tuple[str, int]]] = [[] for _ in self.rungs]
        self._judged: list[tuple[list[list[float]], int]] = []
        self._costs = _Costs([0.0] * (len(self.rungs) + 1), [0] * (len(self.rungs) + 1))
        self._deferral = Deferral(
            len(self.labels),
            [rung.calibration for rung in self.rungs],
            price=self.price,
            seed=self.seed,
        )

    def feed(self, texts: Sequence[str]) -> Iterator[Decision]:
        """Answer inputs in their order, and learn.

        Up to 32 go through a level together, which is many times quicker than one at a time and
        gives the same answers: those behind the first that the top has to label go again, since it
        may bring an update.
        """
        start = 0
        while start < len(texts):
            if self._warm:
                decided = self._pass(texts[start : start + _TOGETHER])
            else:
                decided = [self._ask_top(texts[start], time.perf_counter())]
            yield from decided
            start += len(decided)

    @property
    def _warm(self) -> bool:
        return min(self.updates) >= _WARM_UPDATES

    def _pass(self, texts: Sequence[str]) -> list[Decision]:
        """Decide inputs up to, and with, the first that the top has to label."""
        began = time.perf_counter()
        decided: dict[int, Decision] = {}
        waiting = list(range(len(texts)))
        judged: list[dict[int, list[float]]] = []
        for number, rung in enumerate(self.rungs):
            likely = self._likelihoods(number, [texts[i] for i in waiting])
            judged.append(dict(zip(waiting, likely.tolist(), strict=True)))
            willing = self._deferral.defers(number, likely) <= 0.5
            chance = 1 - rung.decay ** self.updates[number]
            lucky = np.array([self._coin(self.seen + i, number) < chance for i in waiting])
            for i, label, acts in zip(waiting, likely.argmax(1), willing & lucky, strict=True):
                if acts:
                    decided[i] = Decision(self.labels[label], rung.level.name, 0.0)
            waiting = [i for i in waiting if i not in decided]
            if not waiting:
                break
        first = waiting[0] if waiting else len(texts)
        each = (time.perf_counter() - began) / max(first, 1)
        found = [replace(decided[i], seconds=each) for i in range(first)]
        self.seen += first
        if waiting:
            seen = [level[first] for level in judged]
            found.append(self._ask_top(texts[first], time.perf_counter(), seen))
        return found

    def _likelihoods(self, number: int, texts: Sequence[str]) -> NDArray[np.float64]:
        began = time.perf_counter()
        found = self.rungs[number].level.likelihoods(texts)
        self._costs.add(number, time.perf_counter() - began, len(texts))
        return found

    def _coin(self, place: int, number: int) -> float:
        """From 0 to 1, by the input's place in the stream: the same however inputs are fed."""
        key = (self.seed * 2**40 + place * len(self.rungs) + number) * 0x9E3779B97F4A7C15
        key = (key ^ (key >> 31)) * 0xBF58476D1CE4E5B9 % 2**64
        return ((key ^ (key >> 27)) % 2**53) / 2**53

    def _ask_top(
        self, text: str, began: float, judged: list[list[float]] | None = None
    ) -> Decision:
        told = self.top.label(text)
        self._costs.add(len(self.rungs), told.seconds, 1)
        self.seen += 1
        if told.label is None or told.label not in self.labels:
            likely = self.rungs[0].level.likelihoods([text])
            guess = self.labels[int(likely.argmax())]
            failure = told.failure or f"`{told.label}` is none of the labels"
            seconds = time.perf_counter() - began
            return Decision(guess, self.rungs[0].level.name, seconds, told.tokens, failure)
        if judged is None:
            judged = [self._likelihoods(n, [text])[0].tolist() for n in range(len(self.rungs))]
        self._remember(text, self.labels.index(told.label), judged)
        return Decision(told.label, TOP, time.perf_counter() - began, told.tokens)

    def _remember(self, text: str, label: int, judged: list[list[float]]) -> None:
        """Put what the top labelled into every cache; a full one is learned from.

        What the levels thought of it is of before they learned it: a level is seldom wrong about
        what it has just been shown, and networks that are trained on that hand nothing on.
        """
        self._judged = [*self._judged[1 - _KEPT :], (judged, label)]
        for number, (rung, cache) in enumerate(zip(self.rungs, self._caches, strict=True)):
            cache.append((text, label))
            if len(cache) >= rung.cache:
                texts, labels = zip(*cache, strict=True)
                rung.level.learn(texts, labels)
                self.updates[number] += 1
                cache.clear()
                if number == 0:
                    self._learn_deferral(len(texts))

    def _learn_deferral(self, newest: int) -> None:
        """Some steps on the newest inputs that the top has labelled, and on earlier ones."""
        rng = np.random.default_rng([self.seed, self.updates[0]])
        earlier, new = self._judged[:-newest], self._judged[-newest:]
        for _ in range(_STEPS):
            drawn = rng.permutation(len(earlier))[:_REPLAYED].tolist()
            batch = new + [earlier[i] for i in drawn]
            likely = [
                np.array([judged[number] for judged, _ in batch])
                for number in range(len(self.rungs))
            ]
            labels = np.array([label for _, label in batch], np.int64)
            self._deferral.learn(likely, labels, self._costs.above())

    def state(self) -> dict[str, Any]:
        """All from which `restore` makes the same cascade."""
        return {
            "labels": list(self.labels),
            "levels": [rung.level.name for rung in self.rungs],
            "seen": self.seen,
            "updates": list(self.updates),
            "caches": [list(cache) for cache in self._caches],
            "judged": list(self._judged),
            "costs": (list(self._costs.seconds), list(self._costs.inputs)),
            "deferral": self._deferral.state(),
            "models": [rung.level.state() for rung in self.rungs],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what a cascade was when it gave its state.

        Raises:
            RecipeError: It is of other labels or levels.
        """
        own = {"labels": list(self.labels), "levels": [rung.level.name for rung in self.rungs]}
        for what, value in own.items():
            if state[what] != value:
                raise RecipeError(
                    f"the saved cascade has the {what} {', '.join(state[what])}, and this one "
                    f"{', '.join(value)}; bring those back, or begin in another folder."
                )
        self.seen, self.updates = state["seen"], list(state["updates"])
        self._caches = [[tuple(row) for row in cache] for cache in state["caches"]]
        self._judged = [(judged, label) for judged, label in state["judged"]]
        self._costs = _Costs(*map(list, state["costs"]))
        self._deferral.restore(state["deferral"])
        for rung, kept in zip(self.rungs, state["models"], strict=True):
            rung.level.restore(kept)
