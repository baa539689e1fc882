"""The thread that owns the models: it takes requests in and computes their answers."""

from __future__ import annotations

import logging
from threading import Condition, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from telltune.serving.lanes import Job, Lane


class Scheduler:
    """A thread that steps through lanes in turn, as long as they have jobs.

    Attributes:
        largest: Largest number of requests that were computed together so far.

    Args:
        lanes: One lane for each model.
        tell: Callable that gets the jobs that changed after each step, in this thread.
    """

    def __init__(self, lanes: Sequence[Lane], tell: Callable[[list[Job]], object]) -> None:
        self.largest = 0
        self._lanes = lanes
        self._tell = tell
        self._new: list[tuple[Lane, Job]] = []
        self._stopped = False
        self._wake = Condition()
        self._thread = Thread(target=self._run, name="telltune-models", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, lane: Lane, job: Job) -> None:
        """Let a job wait in a lane."""
        with self._wake:
            self._new.append((lane, job))
            self._wake.notify()

    def wake(self) -> None:
        """Look again which lanes are busy; any thread may call this."""
        with self._wake:
            self._wake.notify()

    def stop(self, timeout: float | None = None) -> None:
        """End the thread after its current step; jobs that have not ended stay without answer.

        Args:
            timeout: Longest time to wait for that, in seconds.
        """
        with self._wake:
            self._stopped = True
            self._wake.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopped:
            self._take_in()
            for lane in self._lanes:
                if lane.busy:
                    self._turn(lane)
            with self._wake:
                while not (self._new or self._stopped or any(one.busy for one in self._lanes)):
                    self._wake.wait()

    def _take_in(self) -> None:
        with self._wake:
            new, self._new = self._new, []
        for lane, job in new:
            lane.add(job)

    def _turn(self, lane: Lane) -> None:
        """Step through one lane, until it is done or another has something to compute."""
        try:
            with lane.ready():
                while lane.busy and not self._stopped:
                    changed = lane.step()
                    self.largest = max(self.largest, lane.running, len(changed))
                    self._tell(changed)
                    self._take_in()
                    if any(other.busy for other in self._lanes if other is not lane):
                        break
        except Exception as error:
            # One lane may fail, for example without memory, and the next request may fit.
            logging.getLogger(__name__).exception("A step failed.")
            self._tell(lane.fail(f"{type(error).__name__}: {error}"))
