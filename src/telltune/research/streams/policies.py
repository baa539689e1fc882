"""Policies of a cascade: when a level may answer an input, and when the top model is asked.

`Learned` is published: deferral networks, and a random draw that rarely succeeds at first (Nie et
al., arXiv 2402.04513).

`Promised` keeps a promise: the share of inputs whose answer is that of the top model. A level
answers if its confidence is above a threshold. The top model also labels a random share of the
inputs, whatever the levels think of them, and the thresholds follow from this sample. At thresholds
with k disagreements among n sampled inputs, the upper limit of the rate of disagreements is the
binomial limit of Clopper and Pearson (1934) at 95%. Only thresholds with a limit below the allowed
rate are used. The top model's own answers agree with themselves, so inputs that it has labeled
leave room for later disagreements; the room is spent over as many inputs as were seen so far.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import betaincinv

from telltune.research.streams.deferral import Deferral

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.research.streams.records import Judged

_WARM_UPDATES = 10
"""Number of updates of each level before the warm-up of `Learned` ends, as published."""
_STEPS = 8
"""Deferral-network steps per update of the lowest level; short streams need more than one."""
_REPLAYED = 24
"""Number of earlier inputs added to the newest ones in each of these steps."""
_SURE = 0.95
"""Confidence of the binomial limit."""
_AUDITED = 0.05
"""Share of the inputs that the top model labels for the sample of `Promised`."""
_SAMPLES = 10
"""Size of that sample, in inputs per allowed disagreement; older inputs are forgotten."""
_SAVED = ("enough", "inputs", "exposed", "limit", "spent")
"""Attributes of `Promised` that its state has as they are."""


class Policy(ABC):
    """Decides which level answers an input."""

    @abstractmethod
    def sampled(self, places: Sequence[int], updates: Sequence[int]) -> NDArray[np.bool_]:
        """Return which inputs the top model labels whatever the levels think, (inputs,).

        Args:
            places: Places of the inputs in the stream.
            updates: Number of updates of each level.
        """

    def asks(self, level: int) -> bool:  # noqa: ARG002 - some policies skip levels
        """Return whether a level is asked about inputs that are not sampled; by default all are."""
        return True

    @abstractmethod
    def answers(
        self, level: int, likely: NDArray[np.float64], places: Sequence[int], updates: int
    ) -> NDArray[np.bool_]:
        """Return which inputs a level answers, (inputs,).

        Args:
            level: Number of the level, from 0.
            likely: Likelihood of each label, (inputs, labels).
            places: Places of the inputs in the stream.
            updates: Number of updates of the level.
        """

    def count(self, *, sampled: bool) -> None:  # noqa: B027 - only some policies count
        """Count an input that was answered."""

    def observe(self, judged: Judged, *, sampled: bool) -> None:  # noqa: B027
        """Record an input that the top model has labeled."""

    @abstractmethod
    def update(self, kept: Sequence[Judged], newest: int, costs: Sequence[float]) -> None:
        """Learn after an update of the lowest level.

        Args:
            kept: Inputs that the top model has labeled, the newest last.
            newest: Number of them since the last update.
            costs: Cost of an input at each level relative to the top model.
        """

    def agreement(self) -> tuple[float, float] | None:
        """Return the share of counted inputs whose answer is the top model's; see `Cascade`."""
        return None  # without a random sample of inputs

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the state from which `restore` rebuilds the policy."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state`."""


class Learned(Policy):
    """The published policy: deferral networks and random draws.

    During warm-up the top model labels every input. Later, a level answers if its deferral network
    allows it and a random draw succeeds, with probability 1 - γ^updates.

    Args:
        labels: Number of labels.
        calibration: Target deferral probability of each level where it is right.
        decays: γ of each level.
        price: μ: price of a call to the top model, in nats of prediction loss.
        seed: Seed of the draws and of the networks' initialization.
    """

    def __init__(
        self,
        labels: int,
        calibration: Sequence[float],
        decays: Sequence[float],
        *,
        price: float,
        seed: int,
    ) -> None:
        self.decays = list(decays)
        self.seed = seed
        self._deferral = Deferral(labels, calibration, price=price, seed=seed)
        self._learned = 0

    def sampled(self, places: Sequence[int], updates: Sequence[int]) -> NDArray[np.bool_]:
        """Return true for all inputs of the warm-up, and false afterwards."""
        return np.full(len(places), min(updates) < _WARM_UPDATES)

    def answers(
        self, level: int, likely: NDArray[np.float64], places: Sequence[int], updates: int
    ) -> NDArray[np.bool_]:
        """Return which inputs the deferral network and the draw leave to a level, (inputs,)."""
        chance = 1 - self.decays[level] ** updates
        lucky = np.array([_draw(self.seed, place, level) < chance for place in places])
        found: NDArray[np.bool_] = lucky & (self._deferral.defers(level, likely) <= 0.5)
        return found

    def update(self, kept: Sequence[Judged], newest: int, costs: Sequence[float]) -> None:
        """Train the deferral networks on the newest inputs and on earlier ones."""
        self._learned += 1
        rng = np.random.default_rng([self.seed, self._learned])
        earlier, new = list(kept[:-newest]), list(kept[-newest:])
        for _ in range(_STEPS):
            drawn = rng.permutation(len(earlier))[:_REPLAYED].tolist()
            batch = new + [earlier[i] for i in drawn]
            likely = [np.array([one.likely[n] for one in batch]) for n in range(len(self.decays))]
            labels = np.array([one.label for one in batch], np.int64)
            self._deferral.learn(likely, labels, [*costs[1:], 1.0])

    def state(self) -> dict[str, Any]:
        """Return the state of the networks."""
        return {"deferral": self._deferral.state(), "learned": self._learned}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state`."""
        self._deferral.restore(state["deferral"])
        self._learned = state["learned"]


class Promised(Policy):
    """Thresholds on the levels' confidence that keep a promised agreement with the top model.

    A level without a threshold is asked about sampled inputs only. All inputs are sampled until the
    sample is large enough for the promise.

    Args:
        levels: Number of levels.
        agreement: Promised share of inputs whose answer is the top model's, above 0 and below 1.
        cheapest: Spread the allowed disagreements over the levels so that an input costs least, and
            skip a level that costs more than it saves; otherwise spread them evenly.
        seed: Seed of the sample.

    Attributes:
        thresholds: Confidence of each level above which it answers; infinite if it may not.
    """

    def __init__(self, levels: int, agreement: float, *, cheapest: bool, seed: int) -> None:
        self.allowed = 1 - agreement
        self.cheapest = cheapest
        self.seed = seed
        self.thresholds = [math.inf] * levels
        self._sample: list[tuple[list[float], list[bool]]] = []
        self._enough = False
        self._inputs = 0
        self._exposed = self._exposed_in_all = 0
        self._limit = 0.0
        self._spent = 0.0
        # Sampled inputs while a level may answer, and those that would have got another answer.
        self._audited = self._disagreed = 0

    def sampled(
        self,
        places: Sequence[int],
        updates: Sequence[int],  # noqa: ARG002 - the protocol of policies
    ) -> NDArray[np.bool_]:
        """Return a random share of the inputs, or all of them while the sample is too small."""
        if not self._enough:
            return np.ones(len(places), bool)
        return np.array([_draw(self.seed, place, -1) < _AUDITED for place in places])

    def asks(self, level: int) -> bool:
        """Return whether a level may answer at all."""
        return self.thresholds[level] < math.inf

    def answers(
        self,
        level: int,
        likely: NDArray[np.float64],
        places: Sequence[int],  # noqa: ARG002 - the protocol of policies
        updates: int,  # noqa: ARG002
    ) -> NDArray[np.bool_]:
        """Return where the confidence of a level is above its threshold, (inputs,)."""
        found: NDArray[np.bool_] = likely.max(axis=1) > self.thresholds[level]
        return found

    def count(self, *, sampled: bool) -> None:
        """Count an input, and whether its answer may have been another than the top model's."""
        self._inputs += 1
        self._exposed += not sampled
        self._exposed_in_all += not sampled

    def observe(self, judged: Judged, *, sampled: bool) -> None:
        """Add a sampled input to the sample."""
        if sampled:
            size = math.ceil(_SAMPLES / self.allowed)
            confidence = [judged.confidence(level) for level in range(len(self.thresholds))]
            wrong = [not judged.right(level) for level in range(len(self.thresholds))]
            self._sample = [*self._sample[1 - size :], (confidence, wrong)]
            if min(self.thresholds) < math.inf:
                answers = (
                    number for number, at in enumerate(self.thresholds) if confidence[number] > at
                )
                level = next(answers, None)
                self._audited += 1
                self._disagreed += level is not None and wrong[level]

    def update(
        self,
        kept: Sequence[Judged],  # noqa: ARG002 - the protocol of policies
        newest: int,  # noqa: ARG002
        costs: Sequence[float],
    ) -> None:
        """Choose the thresholds anew."""
        self._spent += self._limit * self._exposed
        self._exposed = 0
        room = self.allowed * self._inputs - self._spent
        allowed = self.allowed + room / max(self._inputs, 1)
        size, most = len(self._sample), -1
        while most < size - 1 and _limit(most + 1, size) <= allowed:
            most += 1
        self._limit, levels = 0.0, len(self.thresholds)
        self._enough = most >= 0
        if not self._enough:
            self.thresholds = [math.inf] * levels
            return
        confidence, wrong = map(np.array, zip(*self._sample, strict=True))
        sample = _Sample(confidence, wrong, np.array(costs))
        everything = np.ones(size, bool)
        if self.cheapest:
            _, self.thresholds = _cheapest(sample, everything, most)
        else:
            self.thresholds = _even(sample, everything, most)
        found = 0
        for level, threshold in enumerate(self.thresholds):
            acts = everything & (sample.confidence[:, level] > threshold)
            found += int((acts & wrong[:, level]).sum())
            everything = everything & ~acts
        if min(self.thresholds) < math.inf:
            self._limit = _limit(found, size)

    def agreement(self) -> tuple[float, float] | None:
        """Return an estimate from the sampled inputs, and its lower limit.

        A sampled input is judged with the thresholds and the levels of its time, and the others
        are like it.
        """
        if not self._audited:
            return None
        exposed = self._exposed_in_all / self._inputs
        rate = self._disagreed / self._audited
        return 1 - rate * exposed, 1 - _limit(self._disagreed, self._audited) * exposed

    def state(self) -> dict[str, Any]:
        """Return the thresholds, the sample and the counts."""
        return {
            "thresholds": list(self.thresholds),
            "sample": list(self._sample),
            "audit": (self._exposed_in_all, self._audited, self._disagreed),
            **{name: getattr(self, f"_{name}") for name in _SAVED},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state`."""
        self.thresholds = list(state["thresholds"])
        self._sample = [(list(confidence), list(wrong)) for confidence, wrong in state["sample"]]
        for name in _SAVED:
            setattr(self, f"_{name}", state[name])
        self._exposed_in_all, self._audited, self._disagreed = state["audit"]


class _Sample(NamedTuple):
    """Sampled inputs: confidence and error of each level, (inputs, levels), and its cost."""

    confidence: NDArray[np.float64]
    wrong: NDArray[np.bool_]
    costs: NDArray[np.float64]

    def threshold(self, level: int, reached: NDArray[np.bool_], errors: int) -> float:
        """Return the lowest threshold of a level with at most this many errors."""
        wrong = np.sort(self.confidence[reached & self.wrong[:, level], level])[::-1]
        return float(wrong[errors]) if len(wrong) > errors else 0.0


def _even(sample: _Sample, reached: NDArray[np.bool_], most: int) -> list[float]:
    """Return thresholds that spread the allowed errors evenly over the levels."""
    found: list[float] = []
    levels = sample.confidence.shape[1]
    for level in range(levels):
        # What a level does not need is left to the next ones.
        errors = math.ceil(most / (levels - level))
        found.append(sample.threshold(level, reached, errors))
        acts = reached & (sample.confidence[:, level] > found[-1])
        most -= int((acts & sample.wrong[:, level]).sum())
        reached = reached & ~acts
    return found


def _cheapest(
    sample: _Sample, reached: NDArray[np.bool_], most: int, level: int = 0
) -> tuple[float, list[float]]:
    """Return the lowest total cost and the thresholds of a level and of those above it."""
    if level == sample.confidence.shape[1]:
        return float(reached.sum()), []
    cost, rest = _cheapest(sample, reached, most, level + 1)
    best = cost, [math.inf, *rest]
    for errors in range(most + 1):
        threshold = sample.threshold(level, reached, errors)
        acts = reached & (sample.confidence[:, level] > threshold)
        cost, rest = _cheapest(sample, reached & ~acts, most - errors, level + 1)
        cost += float(sample.costs[level] * reached.sum())
        if cost < best[0]:
            best = cost, [threshold, *rest]
        if threshold == 0.0:
            break
    return best


def _limit(errors: int, size: int) -> float:
    """Return the upper limit of a rate with this many errors in a sample (Clopper-Pearson)."""
    return float(betaincinv(errors + 1, size - errors, _SURE)) if errors < size else 1.0


def scaled_decay(inputs: int, cache: int) -> float:
    """Return the γ with which the draw fails in 5% after a tenth of a stream was labeled.

    The published values for 25,000 inputs are .99, .97 and .95 with caches of 8, 16 and 32; this
    gives .990, .981 and .962.

    Args:
        inputs: Number of inputs of the stream.
        cache: Number of labeled inputs per update.
    """
    return float(0.05 ** min(10 * cache / inputs, 1.0))


def _draw(seed: int, place: int, level: int) -> float:
    """Return a draw from [0, 1) that depends only on seed, place in the stream and level."""
    key = ((seed << 40) + (place << 8) + level + 1) * 0x9E3779B97F4A7C15
    key = (key ^ (key >> 31)) * 0xBF58476D1CE4E5B9 % 2**64
    return ((key ^ (key >> 27)) % 2**53) / 2**53
