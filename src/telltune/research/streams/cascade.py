"""Online cascade learning (Nie et al., arXiv 2402.04513): use the cheapest adequate answer.

Each input passes through the levels from the cheapest up, until the policy lets a level answer it.
The top model labels the inputs that no level answers. Each level caches these and learns from them
whenever its cache is full.

If the top model fails, the answer is that of the level that agreed with it most often on recent
inputs. The answer records the failure, and no level learns from it.
"""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from telltune.errors import RecipeError
from telltune.fitting.output_folder import check_new
from telltune.research.streams.levels import Level, different_names
from telltune.research.streams.policies import Learned, Policy, Promised, scaled_decay
from telltune.research.streams.records import CascadeAnswer, Judged, LabeledItem, Passed
from telltune.research.streams.saved import SETTINGS, has_state, read_state, write_cascade
from telltune.research.streams.spec import PUBLISHED_INPUTS, AnyCascade, as_cascade
from telltune.research.streams.top import Top, ask, make_top

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

TOP = "top"
_SAVED = ("inputs", "lines", "digest", "seen", "updates", "asked")
_COUNTS = ("answered", "failures", "tokens", "cost")
"""Attributes that the state has as they are, by themselves and under `counts`."""
_TOGETHER = 256
"""Maximum number of inputs that pass through a level together."""
_KEPT = 512
"""Number of most recently labeled inputs that are kept."""


class Cascade:
    """A cascade that answers inputs and learns from them.

    Example:
        >>> cascade = telltune.Cascade("cascade.yaml")
        >>> answer = cascade.answer("My parcel is late.")
        >>> print(answer.text, answer.level, answer.confidence)
        >>> cascade.save("runs/cascade")
        >>> cascade = telltune.Cascade.load("runs/cascade")

    Args:
        spec: The settings: a `CascadeSpec`, the path of a YAML file, or a dictionary.
        levels: Models of the levels; by default those that the settings name.
        top: Top model; by default the one that the settings name.

    Attributes:
        spec: The settings.
        levels: Models below the top model, from the cheapest up.
        names: Names of the levels, each different, and `top`.
        inputs: Expected number of inputs of the stream, to which γ is scaled.
        lines: Number of lines of a stream's file that were read; see `run_stream`.
        digest: SHA-256 of these lines without white space at their ends; "" if it is not known.
        seen: Number of inputs that have entered.
        asked: Number of inputs that each level was asked about, the top model last.
        updates: Number of updates of each level.
        answered: Number of inputs that each level answered, by name.
        failures: Number of inputs for which the top model gave no label.
        tokens: Number of tokens that the top model read and wrote.
        cost: Cost of all answers, relative to a call of the top model.

    Raises:
        RecipeError: The settings are invalid, the variable with the server's key is not set, or a
            folder knows none of the labels.
        ModelError: A model cannot be loaded.
    """

    def __init__(
        self, spec: AnyCascade, *, levels: Sequence[Level] | None = None, top: Top | None = None
    ) -> None:
        self.spec = as_cascade(spec)
        if levels is None:
            from telltune.research.streams.models import make_levels

            levels = make_levels(self.spec)
        if len(levels) != len(self.spec.levels):
            raise RecipeError(
                f"the cascade's settings have {len(self.spec.levels)} levels, but {len(levels)} "
                "models were given; give one for each."
            )
        self.levels = list(levels)
        self.top = make_top(self.spec) if top is None else top
        self.names = (*different_names(levels), TOP)
        self.inputs = self.spec.inputs or PUBLISHED_INPUTS
        self.lines = self.seen = self.failures = self.tokens = 0
        self.digest = ""
        self.cost = 0.0
        self.updates = [0] * len(levels)
        self.asked = [0] * len(self.names)
        self.answered = dict.fromkeys(self.names, 0)
        self._seconds = [0.0] * len(self.names)
        self._caches: list[list[tuple[str, int]]] = [[] for _ in levels]
        self._judged: list[Judged] = []
        self._policy = self._make_policy()
        self._lock = Lock()

    def answer(self, text: str) -> CascadeAnswer:
        """Answer an input, and learn from it if the top model labels it.

        If the top model cannot label it, whatever the reason, the best level answers. Several
        threads may call this; inputs are answered in turn.
        """
        with self._lock:
            [passed] = self.enter([text])
            told = None if passed.level >= 0 else ask(self.top, text)
            answer = self.conclude(passed, told)
            return replace(answer, seconds=answer.seconds + self.learn(passed, told))

    def feed(self, texts: Sequence[str]) -> Iterator[CascadeAnswer]:
        """Answer inputs in their order, and learn from those that the top model labels.

        Inputs pass through a level together, as many as cannot fill a cache. No level learns
        between them, so the answers are the same as one at a time, and no input passes a level
        twice. If the top model raises an error, all answers before it are kept.

        Raises:
            ModelError: The top model cannot label any input.
        """
        start = 0
        while start < len(texts):
            block = self.enter(texts[start : start + min(self.room, _TOGETHER)])
            done = 0
            try:
                for passed in block:
                    told = None if passed.level >= 0 else self.top.label(passed.text)
                    answer = self.conclude(passed, told)
                    learning = self.learn(passed, told)
                    done += 1
                    yield replace(answer, seconds=answer.seconds + learning)
            finally:
                self.seen -= len(block) - done
            start += len(block)

    @property
    def room(self) -> int:
        """Number of inputs that may enter before a level can learn, at least 1."""
        sizes = [level.cache for level in self.spec.levels]
        return min(size - len(kept) for size, kept in zip(sizes, self._caches, strict=True))

    @property
    def agreement(self) -> tuple[float, float] | None:
        """Share of inputs whose answer is the top model's: an estimate, and its lower limit at 95%.

        Inputs on which the top model failed are not counted. None until the random sample has an
        input that a level might have answered, and for the policy `learned`, which has no sample.
        """
        return self._policy.agreement()

    def enter(self, texts: Sequence[str]) -> list[Passed]:
        """Let inputs pass through the levels, without learning.

        `conclude` and then `learn` must follow for each of them; `learn` in the same order.

        Args:
            texts: At most as many inputs as there is `room` beside those that have entered and that
                the top model has not labeled yet.
        """
        places = range(self.seen, self.seen + len(texts))
        sampled = self._policy.sampled(places, self.updates)
        waiting = np.arange(len(texts))
        by = np.full(len(texts), -1)
        seconds = np.zeros(len(texts))
        likely: list[dict[int, list[float]]] = []
        for number in range(len(self.levels)):
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
        self.seen += len(texts)
        return [
            Passed(
                text,
                bool(sampled[i]),
                int(by[i]),
                [level.get(i) for level in likely],
                float(seconds[i]),
            )
            for i, text in enumerate(texts)
        ]

    def conclude(self, passed: Passed, told: LabeledItem | None) -> CascadeAnswer:
        """Return the answer to an input, and count it.

        Args:
            passed: The input, from `enter`.
            told: Answer of the top model; None if a level answers.
        """
        level, likely, failure = passed.level, passed.likely, ""
        cost = sum(
            each for each, found in zip(self._costs(), likely, strict=True) if found is not None
        )
        if told is not None:
            self.asked[-1] += 1
            self.tokens += told.tokens
            # A call that was not made costs nothing, for example while the server has a rest.
            cost += bool(told.label or told.tokens)
            failure = told.failure_among(self.spec.labels)
        if failure:
            self.failures += 1
            level, likely = self._guess(passed)
        name = self.names[level]
        found = likely[level] if level >= 0 else None
        self.cost += cost
        self.answered[name] += 1
        if found is None:
            assert told is not None
            assert told.label is not None
            text, confidence = told.label, None
        else:
            confidence = max(found)
            text = self.spec.labels[found.index(confidence)]
        seconds = passed.seconds + (0.0 if told is None else told.seconds)
        tokens = 0 if told is None else told.tokens
        return CascadeAnswer(text, name, confidence, cost, seconds, tokens, failure)

    def learn(self, passed: Passed, told: LabeledItem | None) -> float:
        """Learn from an input, and return the seconds that it took.

        Args:
            passed: The input, from `enter`.
            told: Answer of the top model; None if a level answered.
        """
        began = time.perf_counter()
        if told is None:
            self._policy.count(sampled=False)
        elif not told.failure_among(self.spec.labels):
            self._seconds[-1] += told.seconds
            judged = Judged(passed.likely, self.spec.labels.index(str(told.label)))
            self._policy.observe(judged, sampled=passed.sampled)
            self._remember(passed.text, judged)
            self._policy.count(sampled=passed.sampled)
        return time.perf_counter() - began

    def _guess(self, passed: Passed) -> tuple[int, list[list[float] | None]]:
        """Return the level that agreed with the top most often, with its likelihoods filled in."""
        share = []
        for number in range(len(self.levels)):
            known = [one.right(number) for one in self._judged if one.likely[number] is not None]
            # Of equally good levels, the upper one.
            share.append((sum(known) / max(len(known), 1), number))
        _, best = max(share)
        likely = list(passed.likely)
        if likely[best] is None:
            likely[best] = self._likelihoods(best, [passed.text])[0].tolist()
        return best, likely

    def _likelihoods(self, number: int, texts: Sequence[str]) -> NDArray[np.float64]:
        """Ask a level, and count its time and inputs."""
        began = time.perf_counter()
        found = self.levels[number].likelihoods(texts)
        self._seconds[number] += time.perf_counter() - began
        self.asked[number] += len(texts)
        return found

    def _remember(self, text: str, judged: Judged) -> None:
        """Add an input that the top model labeled to every cache; learn from full caches.

        The stored likelihoods are those from before the levels learn the input. A level is rarely
        wrong on an input that it has just learned, so a policy that learned from later likelihoods
        would never defer.
        """
        self._judged = [*self._judged[1 - _KEPT :], judged]
        for number, (level, cache) in enumerate(zip(self.levels, self._caches, strict=True)):
            cache.append((text, judged.label))
            if len(cache) >= self.spec.levels[number].cache:
                texts, labels = zip(*cache, strict=True)
                level.learn(texts, labels)
                self.updates[number] += 1
                cache.clear()
                if number == 0:
                    self._policy.update(self._judged, len(texts), self._costs())

    def _costs(self) -> list[float]:
        """Return the cost of an input at each level relative to a call of the top, at most 1."""
        # Failed calls may take no time, and say nothing about the cost of a label.
        counts = [*self.asked[:-1], self.asked[-1] - self.failures]
        means = [s / max(n, 1) for s, n in zip(self._seconds, counts, strict=True)]
        top = means[-1] or 1.0
        return [
            min(mean / top, 1.0) if level.cost is None else level.cost
            for level, mean in zip(self.spec.levels, means[:-1], strict=True)
        ]

    def _make_policy(self) -> Policy:
        spec = self.spec
        if spec.policy != "learned":
            cheapest = spec.policy == "cost_aware"
            return Promised(len(spec.levels), spec.agreement, cheapest=cheapest, seed=spec.seed)
        return Learned(
            len(spec.labels),
            [level.calibration for level in spec.levels],
            [level.decay or scaled_decay(self.inputs, level.cache) for level in spec.levels],
            price=spec.price,
            seed=spec.seed,
        )

    def save(self, folder: str | Path) -> None:
        """Write the settings (cascade.yaml) and what was learned (state.pt) to a folder.

        Each file is complete at any time, so that a killed process leaves the last saved state.

        Raises:
            StorageError: The folder cannot be written, or has files but no cascade.
        """
        folder = Path(folder)
        if folder.is_dir() and not has_state(folder):
            check_new(folder, "choose another folder")
        with self._lock:
            write_cascade(folder, self.spec, self.state())

    @classmethod
    def load(
        cls,
        folder: str | Path,
        spec: AnyCascade | None = None,
        *,
        levels: Sequence[Level] | None = None,
        top: Top | None = None,
    ) -> Self:
        """Return a cascade that continues from the state in a folder.

        Args:
            folder: Folder of `save`, `tell cascade` or `tell serve`.
            spec: Settings to use in place of the saved ones; with the same labels, levels and
                policy.
            levels: See `Cascade`.
            top: See `Cascade`.

        Raises:
            RecipeError: The settings are invalid, or do not fit the state.
            ModelError: A model cannot be loaded.
            StorageError: The folder has no state, or it is damaged.
        """
        folder = Path(folder)
        state = read_state(folder)
        cascade = cls(folder / SETTINGS if spec is None else spec, levels=levels, top=top)
        cascade.restore(state)
        return cascade

    def _identity(self) -> dict[str, list[str]]:
        """Return what a restored state must share."""
        return {
            "labels": list(self.spec.labels),
            "levels": list(self.names[:-1]),
            "policy": [self.spec.policy],
        }

    def state(self) -> dict[str, Any]:
        """Return the state from which `restore` rebuilds the cascade."""
        return {
            **self._identity(),
            **copy.deepcopy({name: getattr(self, name) for name in _SAVED}),
            "seconds": list(self._seconds),
            "counts": copy.deepcopy({name: getattr(self, name) for name in _COUNTS}),
            "caches": [list(cache) for cache in self._caches],
            "judged": [tuple(judged) for judged in self._judged],
            "decisions": self._policy.state(),
            "models": [level.state() for level in self.levels],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state`.

        Raises:
            RecipeError: The state has other labels, levels or policy.
        """
        state = {"digest": ""} | state  # Earlier versions did not save it.
        for what, own in self._identity().items():
            if state[what] != own:
                raise RecipeError(
                    f"the saved cascade has the {what} {', '.join(state[what])}, but this one has "
                    f"{', '.join(own)}; restore them or use another folder."
                )
        saved = {name: state[name] for name in _SAVED} | state["counts"]
        for name, value in copy.deepcopy(saved).items():
            setattr(self, name, value)
        self._seconds = list(state["seconds"])
        self._caches = [[tuple(row) for row in cache] for cache in state["caches"]]
        self._judged = [Judged(*judged) for judged in state["judged"]]
        self._policy = self._make_policy()
        self._policy.restore(state["decisions"])
        for level, kept in zip(self.levels, state["models"], strict=True):
            level.restore(kept)
