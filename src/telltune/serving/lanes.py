"""Lanes: how the requests to one model are answered, a step at a time.

With the packed engine, requests join and leave the batch between any two passes over the model.
Other engines, and predictors that choose a label, answer the waiting requests as one batch.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from telltune.inference.packed_engine import PackedGenerator, starts_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from telltune.data.examples import Example
    from telltune.fitting.predictor import Predictor
    from telltune.inference.engine import Generator
    from telltune.inference.next_tokens import Row
    from telltune.inference.packed_engine import PackedBatch


@dataclass(eq=False)
class Job:
    """One request to a model, and its answer so far.

    Attributes:
        example: Prompt and the turns before it.
        row: Tokens of the prompt and of the answer; None if the model chooses a label.
        label: Chosen label; None before.
        level: Level of a cascade that chose the label; "" for other models.
        more: Keys that the reply has besides those of OpenAI.
        error: Reason why there will be no answer; "" if there is none.
        dropped: Whether nobody waits for the answer any more.
        changed: Event that the server sets after each change.
    """

    example: Example
    row: Row | None = None
    label: str | None = None
    level: str = ""
    more: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    dropped: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def done(self) -> bool:
        """Whether the answer is complete or has failed."""
        ended = self.label if self.row is None else self.row.end
        return ended is not None or bool(self.error)


class Lane(ABC):
    """Requests to one model. One thread calls the methods."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Number of jobs that have not begun."""

    @property
    @abstractmethod
    def running(self) -> int:
        """Number of jobs that have begun and not ended."""

    @property
    def busy(self) -> bool:
        """Whether a step would compute something now."""
        return bool(self.waiting or self.running)

    @abstractmethod
    def add(self, job: Job) -> None:
        """Let a job wait for the next step."""

    @abstractmethod
    def ready(self) -> AbstractContextManager[None]:
        """Return a context in which the model computes; it is otherwise unchanged."""

    @abstractmethod
    def step(self) -> list[Job]:
        """Compute one step within `ready`, and return the jobs that changed.

        Dropped jobs are left out.
        """

    def fail(self, reason: str) -> list[Job]:
        """Give up all jobs, and return them."""
        jobs = self._give_up()
        for job in jobs:
            job.error = reason
        return jobs

    @abstractmethod
    def _give_up(self) -> list[Job]:
        """Remove all jobs that have no answer, and return them."""


class PackedLane(Lane):
    """Requests that the packed engine continues together.

    Prompts that start with the model's usual prefix form one batch, and all others a second one.

    Args:
        engine: The engine.
        prefix: Tokens with which most prompts start: the system turn, the anchor and shots.
        activate: Callable that makes the model's adapter the active one of its base.
        most: Maximum number of requests that are computed together.
    """

    def __init__(
        self,
        engine: PackedGenerator,
        prefix: Sequence[int],
        activate: Callable[[], object],
        most: int,
    ) -> None:
        self._engine, self._prefix, self._activate, self._most = engine, prefix, activate, most
        self._added: list[Job] = []
        self._jobs: dict[Row, Job] = {}
        self._queues: list[tuple[deque[Row], PackedBatch]] = []

    @property
    def waiting(self) -> int:
        """Number of jobs that have not begun."""
        return len(self._added) + sum(len(queue) for queue, _ in self._queues)

    @property
    def running(self) -> int:
        """Number of jobs that have begun and not ended."""
        return sum(len(batch.rows) for _, batch in self._queues)

    def add(self, job: Job) -> None:
        """Let a job wait for the next step."""
        self._added.append(job)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Return a context in which the model computes; it is otherwise unchanged."""
        self._activate()
        with self._engine.computing():
            if not self._queues:
                both = (self._prefix, ()) if self._prefix else ((),)
                self._queues = [(deque(), self._engine.batch(prefix)) for prefix in both]
            yield

    def step(self) -> list[Job]:
        """Compute one step: start the waiting requests that fit, and grow all by one token."""
        self._sort()
        moved: set[Row] = set()
        for queue, batch in self._queues:
            room = self._most - self.running
            moved.update(batch.start(batch.take(queue, len(batch.rows) + room)))
            if batch.rows:
                moved.update(batch.grow())
        changed = [self._jobs[row] for row in moved]
        for row in moved:
            if row.end is not None:
                del self._jobs[row]
        return changed

    def _sort(self) -> None:
        """Put each new job into its queue, and take out the dropped ones."""
        for job in self._added:
            assert job.row is not None
            self._jobs[job.row] = job
            usual = starts_with(job.row.prompt, self._prefix)
            self._queues[0 if usual else -1][0].append(job.row)
        self._added.clear()
        for row in [row for row, job in self._jobs.items() if job.dropped]:
            del self._jobs[row]
            for queue, batch in self._queues:
                if row in queue:
                    queue.remove(row)
                elif row in batch.rows:
                    batch.leave(row)

    def _give_up(self) -> list[Job]:
        jobs = [*self._added, *self._jobs.values()]
        self._added, self._jobs, self._queues = [], {}, []
        return jobs


class _BatchLane(Lane):
    """Requests that are answered in one piece, as many as are waiting.

    Args:
        activate: Callable that makes the model's adapter the active one of its base.
        most: Maximum number of requests that are computed together.
    """

    def __init__(self, activate: Callable[[], object], most: int) -> None:
        self._activate, self._most = activate, most
        self._jobs: list[Job] = []
        self._begun: list[Job] = []

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    @property
    def running(self) -> int:
        return len(self._begun)

    def add(self, job: Job) -> None:
        self._jobs.append(job)

    @contextmanager
    def ready(self) -> Iterator[None]:
        self._activate()
        yield

    def step(self) -> list[Job]:
        """Answer the first job, and all others that can be answered with it."""
        waiting = [job for job in self._jobs if not job.dropped]
        kind = self._kind(waiting[0]) if waiting else None
        self._begun = [job for job in waiting if self._kind(job) == kind][: self._most]
        self._jobs = [job for job in waiting if job not in self._begun]
        if self._begun:
            self._answer(self._begun)
        answered, self._begun = self._begun, []
        return answered

    def _give_up(self) -> list[Job]:
        jobs, self._jobs, self._begun = [*self._begun, *self._jobs], [], []
        return jobs

    @abstractmethod
    def _kind(self, job: Job) -> object:
        """Return what jobs that are answered together have in common."""

    @abstractmethod
    def _answer(self, jobs: list[Job]) -> None:
        """Set the answers of jobs of one kind."""


class GeneratingLane(_BatchLane):
    """Requests to a model that the packed engine does not support.

    Args:
        engine: Engine that generates the answers.
        activate: See `_BatchLane`.
        most: See `_BatchLane`.
    """

    def __init__(self, engine: Generator, activate: Callable[[], object], most: int) -> None:
        super().__init__(activate, most)
        self._engine = engine

    def _kind(self, job: Job) -> object:
        assert job.row is not None
        return job.row.temperature, job.row.top_p, job.row.draws

    def _answer(self, jobs: list[Job]) -> None:
        rows = [job.row for job in jobs if job.row is not None]
        first = rows[0]
        with torch.random.fork_rng(enabled=first.draws is not None):
            if first.draws is not None:
                torch.manual_seed(first.draws.initial_seed())
            answers = self._engine.generate(
                [row.prompt for row in rows],
                max_new_tokens=max(row.max_new_tokens for row in rows),
                stop_ids=first.stop_ids,
                temperature=first.temperature,
                top_p=first.top_p,
            )
        for row, answer in zip(rows, answers, strict=True):
            row.extend(answer)
            row.end = row.end or "stop"


class ChoosingLane(_BatchLane):
    """Requests to a predictor that chooses a label: a baseline, or an adapter with a classifier.

    Args:
        predictor: The predictor.
        activate: See `_BatchLane`.
        most: See `_BatchLane`.
    """

    def __init__(self, predictor: Predictor, activate: Callable[[], object], most: int) -> None:
        super().__init__(activate, most)
        self._predictor = predictor

    def _kind(self, job: Job) -> object:  # noqa: ARG002 - all are alike
        return None

    def _answer(self, jobs: list[Job]) -> None:
        labels = self._predictor.predict([job.example for job in jobs])
        for job, label in zip(jobs, labels, strict=True):
            job.label = label
