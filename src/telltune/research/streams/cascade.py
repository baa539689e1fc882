"""Online cascade learning (Nie et al., arXiv 2402.04513): use the cheapest adequate answer.

Each input passes through the levels from the cheapest up, until the policy lets a level answer it.
The top model labels the inputs that no level answers. Each level caches these and learns from them
whenever its cache is full.

If the top model fails, the answer is that of the level that agreed with it most often on recent
inputs. The decision records the failure, and no level learns from it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from telltune.errors import RecipeError
from telltune.research.streams.policies import Judged, Learned, Policy, Promised, scaled_decay

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from telltune.research.streams.levels import Level
    from telltune.research.streams.top import Top

__all__ = ["PUBLISHED_INPUTS", "TOP", "Cascade", "Decision", "PolicyName", "Rung"]

PolicyName = Literal["learned", "threshold", "cost_aware"]
TOP = "top"
PUBLISHED_INPUTS = 25_000
"""Number of inputs of the published IMDB stream."""
_TOGETHER = 256
"""Maximum number of inputs that pass through a level together."""
_KEPT = 512
"""Number of most recently labeled inputs that are kept."""


@dataclass(frozen=True)
class Rung:
    """Configuration of one level below the top model.

    Attributes:
        level: Model of this level.
        cache: Number of labeled inputs per update.
        decay: γ: after n updates the level may answer with probability 1 - γ^n; by default it is
            scaled to the length of the stream. Used by the policy `learned`.
        calibration: Target deferral probability where the level is right, from 0 to 1. Used by the
            policy `learned`.
        cost: Cost of an input relative to a call of the top model; measured in seconds if None.
    """

    level: Level
    cache: int = 8
    decay: float | None = None
    calibration: float = 0.4
    cost: float | None = None


@dataclass(frozen=True)
class Decision:
    """Decision on one input.

    Attributes:
        label: Answer to the input.
        by: Name of the level that gave the answer.
        seconds: Time for this input in seconds, with its share of the levels' time and the updates
            that it triggered.
        tokens: Number of tokens that the top model read and wrote.
        failure: Reason why the top model was called but gave no label; "" otherwise.
    """

    label: str
    by: str
    seconds: float
    tokens: int = 0
    failure: str = ""


@dataclass
class Cascade:
    """A cascade that answers inputs and learns from them.

    Example:
        >>> cascade = Cascade(["spam", "fine"], [Rung(LinearLevel(2))], top, policy="threshold")
        >>> for decision in cascade.feed(["win a prize now", "see you at nine"]):
        ...     print(decision.label, decision.by)

    Attributes:
        labels: Possible labels of an input.
        rungs: Levels below the top model, from the cheapest up.
        top: Model that labels the inputs that no level answers.
        policy: `learned` (deferral networks and random draws, as published), `threshold`
            (thresholds on confidence that keep the promised agreement) or `cost_aware` (the same,
            with the thresholds that cost least).
        agreement: Promised share of inputs whose answer is the top model's. Used by `threshold` and
            `cost_aware`.
        price: μ: price of a call to the top model, in nats of prediction loss. Used by `learned`.
        inputs: Expected number of inputs of the stream, to which γ is scaled.
        seed: Seed of the random draws and of the deferral networks' initialization.

    Raises:
        RecipeError: There are fewer than two labels, or no levels.
    """

    labels: Sequence[str]
    rungs: Sequence[Rung]
    top: Top
    policy: PolicyName = "learned"
    agreement: float = 0.98
    price: float = 0.5
    inputs: int = PUBLISHED_INPUTS
    seed: int = 0
    seen: int = field(default=0, init=False)
    """Number of inputs seen so far."""
    updates: list[int] = field(init=False)
    """Number of updates of each level."""
    asked: list[int] = field(init=False)
    """Number of inputs that each level was asked about, the top model last."""

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise RecipeError("a cascade needs at least two labels, each listed once.")
        if not self.rungs:
            raise RecipeError("a cascade needs at least one level below the top model.")
        self.updates = [0] * len(self.rungs)
        self._caches: list[list[tuple[str, int]]] = [[] for _ in self.rungs]
        self._judged: list[Judged] = []
        self.asked = [0] * (len(self.rungs) + 1)
        self._seconds = [0.0] * (len(self.rungs) + 1)
        self._policy = self._make_policy()

    def feed(self, texts: Sequence[str]) -> Iterator[Decision]:
        """Answer inputs in their order, and learn from those that the top model labels.

        Inputs pass through a level together, as many as cannot fill a cache. No level learns
        between them, so the answers are the same as one at a time, and no input passes a level
        twice. If the top model raises an error, all answers before it are kept.
        """
        start = 0
        while start < len(texts):
            room = min(
                rung.cache - len(cache)
                for rung, cache in zip(self.rungs, self._caches, strict=True)
            )
            block = texts[start : start + min(room, _TOGETHER)]
            yield from self._pass(block)
            start += len(block)

    def _pass(self, texts: Sequence[str]) -> Iterator[Decision]:
        """Decide inputs between which no level learns."""
        places = range(self.seen, self.seen + len(texts))
        sampled = self._policy.sampled(places, self.updates)
        waiting = np.arange(len(texts))
        by = np.full(len(texts), -1)
        seconds = np.zeros(len(texts))
        likely: list[dict[int, list[float]]] = []
        for number in range(len(self.rungs)):
            asked = waiting if self._policy.asks(number) else waiting[sampled[waiting]]
            likely.append({})
            if not len(asked):
                continue
            began = time.perf_counter()
            found = self._likelihoods(number, [texts[i] for i in asked])
            seconds[asked] += (time.perf_counter() - began) / len(asked)
            likely[-1] = dict(zip(asked.tolist(), found.tolist(), strict=True))
            answers = self._policy.answers(
                number, found, [places[i] for i in asked], self.updates[number]
            )
            by[asked[answers & ~sampled[asked]]] = number
            waiting = waiting[by[waiting] < 0]
        for i, text in enumerate(texts):
            began = time.perf_counter()
            own = [level.get(i) for level in likely]
            if by[i] >= 0:
                label, name, tokens, failure = self._best(own[by[i]]), self._name(by[i]), 0, ""
            else:
                label, name, tokens, failure = self._ask_top(text, own, sampled=bool(sampled[i]))
            self.seen += 1
            self._policy.count(sampled=by[i] < 0 and bool(sampled[i]))
            spent = seconds[i] + time.perf_counter() - began
            yield Decision(label, name, float(spent), tokens, failure)

    def _ask_top(
        self, text: str, likely: list[list[float] | None], *, sampled: bool
    ) -> tuple[str, str, int, str]:
        """Return the label, who gave it, tokens and failure; learn if the top gave the label."""
        told = self.top.label(text)
        self._seconds[-1] += told.seconds
        self.asked[-1] += 1
        if told.label is None or told.label not in self.labels:
            number, guess = self._guess(text, likely)
            failure = told.failure or f"`{told.label}` is not one of the labels"
            return guess, self._name(number), told.tokens, failure
        judged = Judged(likely, self.labels.index(told.label))
        self._policy.observe(judged, sampled=sampled)
        self._remember(text, judged)
        return told.label, TOP, told.tokens, ""

    def _guess(self, text: str, likely: list[list[float] | None]) -> tuple[int, str]:
        """Return the level that agreed with the top most often, and its answer."""
        share = []
        for number in range(len(self.rungs)):
            known = [one.right(number) for one in self._judged if one.likely[number] is not None]
            # Of equally good levels, the upper one.
            share.append((sum(known) / max(len(known), 1), number))
        _, best = max(share)
        found = likely[best]
        if found is None:
            found = self._likelihoods(best, [text])[0].tolist()
        return best, self._best(found)

    def _likelihoods(self, number: int, texts: Sequence[str]) -> NDArray[np.float64]:
        """Ask a level, and count its time and inputs."""
        began = time.perf_counter()
        found = self.rungs[number].level.likelihoods(texts)
        self._seconds[number] += time.perf_counter() - began
        self.asked[number] += len(texts)
        return found

    def _best(self, likely: list[float] | None) -> str:
        """Return the most likely label of a level that was asked."""
        assert likely is not None
        return self.labels[likely.index(max(likely))]

    def _name(self, number: int) -> str:
        return self.rungs[number].level.name

    def _remember(self, text: str, judged: Judged) -> None:
        """Add an input that the top model labeled to every cache; learn from full caches.

        The stored likelihoods are those from before the levels learn the input. A level is rarely
        wrong on an input that it has just learned, so a policy that learned from later likelihoods
        would never defer.
        """
        self._judged = [*self._judged[1 - _KEPT :], judged]
        for number, (rung, cache) in enumerate(zip(self.rungs, self._caches, strict=True)):
            cache.append((text, judged.label))
            if len(cache) >= rung.cache:
                texts, labels = zip(*cache, strict=True)
                rung.level.learn(texts, labels)
                self.updates[number] += 1
                cache.clear()
                if number == 0:
                    self._policy.update(self._judged, len(texts), self._costs())

    def _costs(self) -> list[float]:
        """Return the cost of an input at each level relative to a call of the top, at most 1."""
        means = [s / max(n, 1) for s, n in zip(self._seconds, self.asked, strict=True)]
        top = means[-1] or 1.0
        return [
            min(mean / top, 1.0) if rung.cost is None else rung.cost
            for rung, mean in zip(self.rungs, means[:-1], strict=True)
        ]

    def _make_policy(self) -> Policy:
        if self.policy != "learned":
            cheapest = self.policy == "cost_aware"
            return Promised(len(self.rungs), self.agreement, cheapest=cheapest, seed=self.seed)
        return Learned(
            len(self.labels),
            [rung.calibration for rung in self.rungs],
            [rung.decay or scaled_decay(self.inputs, rung.cache) for rung in self.rungs],
            price=self.price,
            seed=self.seed,
        )

    def _identity(self) -> dict[str, list[str]]:
        """Return what a restored state must share."""
        levels = [rung.level.name for rung in self.rungs]
        return {"labels": list(self.labels), "levels": levels, "policy": [self.policy]}

    def state(self) -> dict[str, Any]:
        """Return the state from which `restore` rebuilds the cascade."""
        return {
            **self._identity(),
            "inputs": self.inputs,
            "seen": self.seen,
            "updates": list(self.updates),
            "caches": [list(cache) for cache in self._caches],
            "judged": [tuple(judged) for judged in self._judged],
            "costs": (list(self._seconds), list(self.asked)),
            "decisions": self._policy.state(),
            "models": [rung.level.state() for rung in self.rungs],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state`.

        Raises:
            RecipeError: The state has other labels, levels or policy.
        """
        for what, own in self._identity().items():
            if state[what] != own:
                raise RecipeError(
                    f"the saved cascade has the {what} {', '.join(state[what])}, but this one has "
                    f"{', '.join(own)}; restore them or use another folder."
                )
        self.inputs = state["inputs"]
        self.seen, self.updates = state["seen"], list(state["updates"])
        self._caches = [[tuple(row) for row in cache] for cache in state["caches"]]
        self._judged = [Judged(*judged) for judged in state["judged"]]
        self._seconds, self.asked = map(list, state["costs"])
        self._policy = self._make_policy()
        self._policy.restore(state["decisions"])
        for rung, kept in zip(self.rungs, state["models"], strict=True):
            rung.level.restore(kept)
