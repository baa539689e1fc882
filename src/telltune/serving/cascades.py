"""Cascades that answer requests, learn from them, and keep what they have learned.

Inputs enter a cascade in the order of their requests, and it learns from them in the same order,
whichever call of the top model ends first. While such calls are open, later inputs that a level can
answer are answered.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from threading import Thread
from typing import TYPE_CHECKING

from telltune.errors import DataError, RecipeError, StorageError
from telltune.fitting.output_folder import check_new, lock_folder
from telltune.research.streams.cascade import Cascade
from telltune.research.streams.records import LabeledItem
from telltune.research.streams.saved import SETTINGS, has_state
from telltune.research.streams.spec import load_cascade
from telltune.research.streams.top import ask
from telltune.serving.lanes import Job, Lane
from telltune.storage import remove_unfinished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from telltune.data.examples import Example
    from telltune.research.streams.records import Passed
    from telltune.serving.models import Sampling

SAVED_AFTER = 100
"""Number of inputs after which the state is saved; a killed server loses at most as many."""


@dataclass(eq=False)
class _Open:
    """Input whose label the top model gives."""

    job: Job
    passed: Passed
    told: LabeledItem | None = None
    """Answer of the top model, which another thread sets."""
    concluded: bool = False


class CascadeLane(Lane):
    """Requests to a cascade.

    A top model behind an API is asked from other threads. A local one is asked in a step.

    Args:
        cascade: The cascade.
        folder: Folder for its state.

    Attributes:
        wake: Callable that another thread calls when the top model has answered.
    """

    def __init__(self, cascade: Cascade, folder: Path) -> None:
        self.wake: Callable[[], object] = lambda: None
        self._cascade, self._folder = cascade, folder
        self._jobs: deque[Job] = deque()
        self._open: deque[_Open] = deque()
        self._unsaved = 0

    @property
    def waiting(self) -> int:
        """Number of jobs that have not begun."""
        return len(self._jobs)

    @property
    def running(self) -> int:
        """Number of jobs that wait for the top model."""
        return sum(not one.concluded for one in self._open)

    @property
    def busy(self) -> bool:
        """Whether a step would compute something now."""
        asks = not self._cascade.top.threads
        return bool(self._jobs and self._room > 0) or any(
            (one.told is None and asks) or (one.told is not None and not one.concluded)
            for one in self._open
        )

    @property
    def _room(self) -> int:
        """Number of jobs that may begin, so that no level learns between two of them."""
        return self._cascade.room - len(self._open)

    def add(self, job: Job) -> None:
        """Let a job wait for the next step."""
        self._jobs.append(job)

    def ready(self) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return nullcontext()

    def step(self) -> list[Job]:
        """Conclude what the top model has answered, learn, and let further jobs enter."""
        changed = self._conclude()
        self._learn()
        changed += self._enter()
        if self._unsaved >= SAVED_AFTER:
            try:
                self.save()
            except StorageError:
                # Answers go on. The next attempt is after as many inputs again.
                logging.getLogger(__name__).exception("The state could not be saved.")
                self._unsaved = 0
        return changed

    def _enter(self) -> list[Job]:
        """Let jobs pass through the levels, and return those that a level answers."""
        jobs: list[Job] = []
        while self._jobs and len(jobs) < self._room:
            job = self._jobs.popleft()
            if not job.dropped:
                jobs.append(job)
        if not jobs:
            return []
        changed = []
        entered = self._cascade.enter([job.example.prompt for job in jobs])
        for job, passed in zip(jobs, entered, strict=True):
            if passed.level >= 0:
                self._answer(job, passed, None)
                self._cascade.learn(passed, None)
                changed.append(job)
                continue
            one = _Open(job, passed)
            self._open.append(one)
            if self._cascade.top.threads:
                # A daemon, because the process may end before the server has answered.
                Thread(target=self._ask, args=(one,), daemon=True).start()
        return changed

    def _answer(self, job: Job, passed: Passed, told: LabeledItem | None) -> None:
        """Set the answer to a job, with how it came about."""
        answer = self._cascade.conclude(passed, told)
        job.label, job.level = answer.text, answer.level
        job.more = {
            "cascade": {
                "level": answer.level,
                "confidence": answer.confidence,
                "cost": answer.cost,
                "seconds": answer.seconds,
                "top_tokens": answer.tokens,
                "top_failure": answer.failure or None,
            }
        }
        self._unsaved += 1

    def _ask(self, one: _Open) -> None:
        """Ask the top model, in any thread."""
        began = time.perf_counter()
        try:
            one.told = ask(self._cascade.top, one.passed.text)
        except Exception as error:
            logging.getLogger(__name__).exception("The top model failed.")
            told = f"{type(error).__name__}: {error}"
            one.told = LabeledItem(None, 0, time.perf_counter() - began, told)
        self.wake()

    def _conclude(self) -> list[Job]:
        """Return the jobs that the top model has answered since the last step."""
        if not self._cascade.top.threads:
            for one in self._open:
                # One for each step, so that its answer is sent before the next is computed.
                if one.told is None:
                    self._ask(one)
                    break
        changed = []
        for one in self._open:
            if one.told is not None and not one.concluded:
                self._answer(one.job, one.passed, one.told)
                one.concluded = True
                changed.append(one.job)
        return changed

    def _learn(self) -> None:
        """Learn in the order of arrival, up to the first input that has no label yet."""
        while self._open and self._open[0].concluded:
            one = self._open.popleft()
            self._cascade.learn(one.passed, one.told)

    def _give_up(self) -> list[Job]:
        jobs = [*(one.job for one in self._open if not one.concluded), *self._jobs]
        self._open.clear()
        self._jobs.clear()
        return jobs

    def save(self) -> None:
        """Save the state of the cascade.

        Raises:
            StorageError: The folder cannot be written.
        """
        self._cascade.save(self._folder)
        self._unsaved = 0


@dataclass(frozen=True)
class ServedCascade:
    """A cascade, and the lane of its requests.

    Attributes:
        name: Name of its folder, which requests give as `model`.
        cascade: The cascade.
        lane: Lane of the requests.
        loaded: Time of loading in seconds since 1970.
    """

    name: str
    cascade: Cascade
    lane: CascadeLane
    loaded: int = field(default_factory=lambda: int(time.time()))

    @property
    def engine(self) -> str:
        """Description of how requests are answered."""
        *levels, top = self.cascade.names
        return f"cascade of {', '.join(levels)} and {top}, after {self.cascade.seen:,} inputs"

    def job(self, example: Example, sampling: Sampling) -> Job:  # noqa: ARG002 - as other models
        """Return a job for an input.

        Raises:
            DataError: The conversation has more than one turn.
        """
        if example.history:
            raise DataError(
                "messages: a cascade answers single inputs; send one message from `user`. The "
                "instruction is in the settings of the cascade."
            )
        return Job(example)

    def writing(self, stops: Sequence[str] = ()) -> None:
        """Return None: an answer comes in one piece."""


def cascade_folders(paths: Sequence[Path], out: Path | None) -> dict[Path, Path]:
    """Return the folder for the state of each path that is a cascade.

    Args:
        paths: Paths to serve: cascades in YAML, their folders, and other models.
        out: Folder for the state of the cascade in YAML.

    Raises:
        RecipeError: There is a cascade in YAML and no `out`, or the other way round.
    """
    files = [path for path in paths if path.suffix in (".yaml", ".yml") and not path.is_dir()]
    if files and out is None:
        raise RecipeError(
            f"{files[0]}: a cascade learns while it is served; name the folder for what it learns "
            "with --out."
        )
    if len(files) != 1 and out is not None:
        raise RecipeError(
            "--out is the folder of one cascade that is given by its YAML file; a folder of a "
            "cascade is served without --out."
        )
    folders = {path: path for path in paths if (path / SETTINGS).is_file()}
    return folders | {path: out for path in files if out is not None}


@contextmanager
def serve_cascade(path: Path, folder: Path) -> Iterator[ServedCascade]:
    """Load a cascade to serve, and save what it has learned if the block ends without an error.

    Args:
        path: Settings in YAML, or the folder.
        folder: Folder for the state; a state that is there goes on.

    Raises:
        RecipeError: The settings are invalid, or do not fit the state.
        ModelError: A model cannot be loaded.
        StorageError: The folder is in use, holds other files, or cannot be written; or its state
            is damaged.
    """
    spec = None if path.is_dir() else load_cascade(path)
    with lock_folder(folder):
        remove_unfinished(folder)
        if spec is not None and not has_state(folder):
            check_new(folder)
            cascade = Cascade(spec)
        else:
            cascade = Cascade.load(folder, spec)
        served = ServedCascade(folder.resolve().name, cascade, CascadeLane(cascade, folder))
        # A folder that cannot be written is found now, and not after the first hundred inputs.
        served.lane.save()
        yield served
        served.lane.save()
