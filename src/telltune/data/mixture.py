"""Mixture of task and general examples in one seeded order: the "extensive shuffle" of TELL.

Task examples, repeated for the given number of passes, and many more general examples form one
multiset in one random order (arXiv 2404.00914). The order is a pure function of (seed, epoch,
sizes) with random access, and is never held in memory. A resumed run therefore sees the same
examples as an uninterrupted one, with any number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from telltune.data.choice import general_index, seeded_permutation
from telltune.data.permutation import MAX_SIZE, Permutation, derive_keys, hash64
from telltune.errors import DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from telltune.recipe import Order

# Numbers of random streams. `choice` uses those below 3. A changed number changes every run.
_ORDER, _TASK_PASS, _BATCH, _OFFSET = range(3, 7)

_CHUNK = 2**13
"""Number of slots that an iterator computes at once."""


class Slots(NamedTuple):
    """Consecutive slots of the order, as arrays of equal length."""

    is_task: NDArray[np.bool_]
    """Booleans of shape (n,), true for task examples and false for general examples."""
    index: NDArray[np.int64]  # type: ignore[assignment]  # hides tuple.index, not needed
    """Integers of shape (n,): index of the example in the task or general data, from 0."""

    @property
    def pairs(self) -> list[tuple[bool, int]]:
        """Pair of `is_task` and `index` for each slot."""
        return list(zip(self.is_task.tolist(), self.index.tolist(), strict=True))


@dataclass(frozen=True)
class Mixture:
    """Order of task and general examples in training.

    In an epoch, every task example appears `passes` times and every general example at most once.
    Each epoch has a different order and takes different general examples. No general example
    repeats before all have been used.

    Orders:
        `shuffled`: One uniform random order of the whole multiset, as in TELL.
        `stratified`: Each optimizer batch contains its proportional share of task examples, rounded
            up or down, in random slots. Each pass over the task data ends before the next starts.
        `task_first`, `general_first`: One part after the other, each shuffled separately.

    For a curriculum, set `ranked`: the task slots are then filled with the task examples in their
    given order, pass after pass.

    Example:
        >>> mixture = Mixture(10, 1000, 50_000, passes=3, order="shuffled", seed=0, batch_size=16)
        >>> len(mixture)
        1030
        >>> is_task, index = mixture.slots(epoch=0, start=0, stop=len(mixture))
        >>> int(is_task.sum())
        30

    Attributes:
        task_examples: Number of distinct task examples; 0 for general data alone.
        general_examples: Number of general slots in an epoch; 0 for task data alone.
        general_available: Number of available general examples.
        passes: Number of times that each task example appears in an epoch.
        order: Order of the epoch, see above.
        seed: Random seed, at least 0.
        batch_size: Number of examples in an optimizer step, over all processes.
        ranked: Whether to keep the order of the task examples, see above.

    Raises:
        RecipeError: The order is `stratified` with a batch size of 1.
        DataError: The mixture is empty or too large, or an epoch needs more general examples than
            are available.
    """

    task_examples: int
    general_examples: int
    general_available: int
    passes: int
    order: Order
    seed: int
    batch_size: int
    ranked: bool = False

    def __post_init__(self) -> None:
        if self.order == "stratified" and self.batch_size == 1:
            raise RecipeError(
                "`mixture.order: stratified` needs a batch size of at least 2: raise "
                "`training.batch_size`, or use `shuffled`."
            )
        if not 1 <= self._size <= MAX_SIZE:
            raise DataError(
                f"A mixture must contain from 1 to 2**40 examples, not {self._size}: "
                f"{self.task_examples} task examples x {self.passes} passes "
                f"+ {self.general_examples} general examples."
            )
        if self.general_examples > self.general_available:
            raise DataError(
                f"An epoch needs {self.general_examples} general examples, but "
                f"{self.general_available} are available: lower `mixture.general_examples` or "
                "`mixture.leverage_ratio`, or add general data."
            )

    def __len__(self) -> int:
        return self._size

    @property
    def batches_per_epoch(self) -> int:
        """Number of optimizer steps in an epoch, including a smaller last batch."""
        return -(-self._size // self.batch_size)

    @property
    def _task_slots(self) -> int:
        return self.passes * self.task_examples

    @property
    def _size(self) -> int:
        # Python limits len(self) to the platform's index type, and this property is read before
        # the sizes are validated.
        return self._task_slots + self.general_examples

    def slots(self, epoch: int, start: int, stop: int) -> Slots:
        """Return a range of an epoch's slots, as a pure function of (seed, epoch, sizes).

        Time and memory grow only with `stop - start`; with `ranked`, the time grows with `stop`.

        Raises:
            IndexError: The range is outside the epoch.
        """
        if not 0 <= start <= stop <= self._size:
            raise IndexError(f"Slots {start} to {stop} are not in an epoch of {self._size}.")
        task_before = 0
        for first in range(0, start if self.ranked else 0, _CHUNK):
            task_before += int(self._draw(epoch, first, min(first + _CHUNK, start))[0].sum())
        return self._slots(epoch, start, stop, task_before)

    def batches(self, epoch: int) -> Iterator[Slots]:
        """Iterate over an epoch, one optimizer step at a time."""
        task_before = 0
        length = max(1, _CHUNK // self.batch_size) * self.batch_size
        for start in range(0, self._size, length):
            is_task, index = self._slots(epoch, start, min(start + length, self._size), task_before)
            task_before += int(is_task.sum())
            for first in range(0, len(index), self.batch_size):
                part = slice(first, first + self.batch_size)
                yield Slots(is_task[part], index[part])

    def _slots(self, epoch: int, start: int, stop: int, task_before: int) -> Slots:
        """Return slots, of which `task_before` are task slots before the first."""
        is_task, ordinal = self._draw(epoch, start, stop)
        index = np.empty(stop - start, dtype=np.int64)
        if self.ranked:
            ordinal[is_task] = task_before + np.arange(int(is_task.sum()))
        if self.task_examples:
            index[is_task] = ordinal[is_task] % self.task_examples
        index[~is_task] = general_index(
            epoch * self.general_examples + ordinal[~is_task],
            self.general_available,
            self.general_examples,
            self.seed,
        )
        return Slots(is_task, index)

    def _draw(
        self, epoch: int, start: int, stop: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return, for each slot, whether it is a task slot and its number among its kind."""
        if self.order == "stratified":
            return self._draw_stratified(epoch, start, stop)
        places = np.arange(start, stop)
        if self.order == "shuffled":
            numbers = self._order(epoch, self._size)[places]
            is_task = numbers < self._task_slots
            return is_task, np.where(is_task, numbers, numbers - self._task_slots)
        if self.order == "task_first":
            is_task, ordinal = places < self._task_slots, places - self._task_slots
        else:
            is_task, ordinal = places >= self.general_examples, places.copy()
            places = places - self.general_examples
        if is_task.any():
            ordinal[is_task] = self._order(epoch, self._task_slots)[places[is_task]]
        return is_task, ordinal

    def _draw_stratified(
        self, epoch: int, start: int, stop: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        first, last = start // self.batch_size, -(-stop // self.batch_size)
        edges = np.arange(first, last + 1) * self.batch_size
        task_until = self._quota(epoch, np.minimum(edges, self._size))
        places = np.arange(first * self.batch_size, last * self.batch_size)
        draws = hash64(places.astype(np.uint64), derive_keys(self.seed, (_BATCH, epoch), 1)[0])
        # A smaller last batch is padded with slots that sort last and are cut off below.
        draws[places >= self._size] = np.iinfo(np.uint64).max
        by_batch = draws.reshape(last - first, self.batch_size)
        rank = by_batch.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        is_task = (rank < np.diff(task_until)[:, None]).ravel()
        task_seen = task_until[0] + np.cumsum(is_task)
        ordinal = np.where(is_task, task_seen - 1, places - task_seen)
        wanted = slice(start - first * self.batch_size, stop - first * self.batch_size)
        is_task, ordinal = is_task[wanted], ordinal[wanted]
        ordinal[is_task] = self._shuffle_passes(epoch, ordinal[is_task])
        return is_task, ordinal

    def _quota(self, epoch: int, edges: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count the task examples in the batches before each edge.

        The offset shifts the rounding, so that a few task examples are not in the same batches
        every epoch.
        """
        offset = int(derive_keys(self.seed, (_OFFSET, epoch), 1)[0]) % self._size
        return (edges * self._task_slots + offset) // self._size

    def _shuffle_passes(self, epoch: int, ordinal: NDArray[np.int64]) -> NDArray[np.int64]:
        """Apply a separate random order to each pass over the task data."""
        shuffled = np.empty_like(ordinal)
        if not ordinal.size:
            return shuffled
        passes = ordinal // self.task_examples
        for number in range(int(passes[0]), int(passes[-1]) + 1):
            inside = slice(*np.searchsorted(passes, [number, number + 1]))
            order = seeded_permutation(self.task_examples, self.seed, (_TASK_PASS, epoch, number))
            shuffled[inside] = order[ordinal[inside] - number * self.task_examples]
        return shuffled

    def _order(self, epoch: int, size: int) -> Permutation:
        return seeded_permutation(size, self.seed, (_ORDER, epoch))
