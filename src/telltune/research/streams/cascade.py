"""Online cascade learning (Nie et al., arXiv 2402.04513): use the cheapest adequate answer.

Each input passes through the levels from the cheapest up, and each level may defer to the next.
During warm-up the top model labels every input. Each level caches the inputs that the top model has
labeled and learns from them whenever its cache is full. A level answers only if its deferral
network allows it *and* a random draw with probability 1 - γ^updates succeeds, so that it answers
more often after each update. The top model labels the inputs that no level answers.

If the top model fails, the answer is the lowest level's most likely label. The decision records the
failure, and no level learns from it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.errors import RecipeError
from telltune.research.streams.deferral import Deferral

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from telltune.research.streams.levels import Level
    from telltune.research.streams.top import Top

__all__ = ["TOP", "Cascade", "Decision", "Rung"]

TOP = "top"
_TOGETHER = 32
_WARM_UPDATES = 10
"""Number of updates of each level before the warm-up ends, as published."""
_STEPS = 8
"""Deferral-network steps per update of the lowest level; short streams need more than one."""
_REPLAYED = 24
"""Number of earlier inputs added to the newest ones in each of these steps."""
_KEPT = 512
"""Number of most recently labeled inputs from which the earlier ones are drawn."""


@dataclass(frozen=True)
class Rung:
    """Configuration of one level below the top model; defaults are the published IMDB values.

    Attributes:
        level: Model of this level.
        cache: Number of labeled inputs per update.
        decay: γ: after n updates the level may answer with probability 1 - γ^n.
        calibration: Target deferral probability where the level is right, from 0 to 1.
    """

    level: Level
    cache: int = 8
    decay: float = 0.97
    calibration: float = 0.4


@dataclass(frozen=True)
class Decision:
    """Decision on one input.

    Attributes:
        label: Answer to the input.
        by: Name of the level that gave the answer.
        seconds: Time for this input in seconds, learning included.
        tokens: Number of tokens that the top model read and wrote.
        failure: Reason why the top model was called but gave no label; "" otherwise.
    """

    label: str
    by: str
    seconds: float
    tokens: int = 0
    failure: str = ""


@dataclass
class _Costs:
    """Total seconds and number of inputs per level, the top model last."""

    seconds: list[float]
    inputs: list[int]

    def add(self, level: int, seconds: float, inputs: int) -> None:
        self.seconds[level] += seconds
        self.inputs[level] += inputs

    def above(self) -> list[float]:
        """Return, for each level, the cost of the next one relative to the top model."""
        means = [s / max(n, 1) for s, n in zip(self.seconds, self.inputs, strict=True)]
        top = means[-1] or 1.0
        return [min(mean / top, 1.0) for mean in means[1:]]


@dataclass
class Cascade:
    """A cascade that answers inputs and learns from them.

    Example:
        >>> cascade = Cascade(["spam", "fine"], [Rung(LinearLevel(2))], top)
        >>> for decision in cascade.feed(["win a prize now", "see you at nine"]):
        ...     print(decision.label, decision.by)

    Attributes:
        labels: Possible labels of an input.
        rungs: Levels below the top model, from the cheapest up.
        top: Model that labels the inputs that no level answers.
        price: μ: price of a call to the top model, in nats of prediction loss.
        seed: Seed of the random draws and of the deferral networks' initialization.
    """

    labels: Sequence[str]
    rungs: Sequence[Rung]
    top: Top
    price: float = 0.5
    seed: int = 0
    seen: int = field(default=0, init=False)
    """Number of inputs seen so far."""
    updates: list[int] = field(init=False)
    """Number of updates of each level."""

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise RecipeError("a cascade needs at least two labels, each listed once.")
        if not self.rungs:
            raise RecipeError("a cascade needs at least one level below the top model.")
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
        """Answer inputs in their order, and learn from those that the top model labels.

        Up to 32 inputs pass through a level together, which is much faster than one at a time and
        gives the same answers. The inputs after the first one that needs the top model are
        processed again, because its label may trigger an update.
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
        """Decide the inputs up to and including the first that the top model has to label."""
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
        """Return a draw from [0, 1) that depends only on seed, level and place in the stream."""
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
            failure = told.failure or f"`{told.label}` is not one of the labels"
            seconds = time.perf_counter() - began
            return Decision(guess, self.rungs[0].level.name, seconds, told.tokens, failure)
        if judged is None:
            judged = [self._likelihoods(n, [text])[0].tolist() for n in range(len(self.rungs))]
        self._remember(text, self.labels.index(told.label), judged)
        return Decision(told.label, TOP, time.perf_counter() - began, told.tokens)

    def _remember(self, text: str, label: int, judged: list[list[float]]) -> None:
        """Add an input that the top model labeled to every cache; learn from full caches.

        The stored likelihoods are those from before the levels learn the input. A level is rarely
        wrong on an input that it has just learned, so deferral networks trained on later
        likelihoods would never defer.
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
        """Train the deferral networks on the newest labeled inputs and on earlier ones."""
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
        """Return the state from which `restore` rebuilds the cascade."""
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
        """Restore a state returned by `state`.

        Raises:
            RecipeError: The state has other labels or levels.
        """
        own = {"labels": list(self.labels), "levels": [rung.level.name for rung in self.rungs]}
        for what, value in own.items():
            if state[what] != value:
                raise RecipeError(
                    f"the saved cascade has the {what} {', '.join(state[what])}, but this one has "
                    f"{', '.join(value)}; restore them or use another folder."
                )
        self.seen, self.updates = state["seen"], list(state["updates"])
        self._caches = [[tuple(row) for row in cache] for cache in state["caches"]]
        self._judged = [(judged, label) for judged, label in state["judged"]]
        self._costs = _Costs(*map(list, state["costs"]))
        self._deferral.restore(state["deferral"])
        for rung, kept in zip(self.rungs, state["models"], strict=True):
            rung.level.restore(kept)
