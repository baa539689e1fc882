"""Mixture of task and general examples in one seeded order: the "extensive shuffle" of TELL.

Task examples, repeated for the given number of passes, and many more general examples form one
multiset in one random order (arXiv 2404.00914). The order is a pure function of (seed, epoch,
sizes) with random access, and is never held in memory. A resumed run therefore sees the same
examples as an uninterrupted one, with any number of processes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar, get_args

import numpy as np

from telltune.data.choice import general_index, seeded_permutation
from telltune.data.permutation import MAX_SIZE, Permutation, derive_keys, hash64
from telltune.errors import DataError, RecipeError
from telltune.recipe import Order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Mixture", "Slots", "interleave"]

T = TypeVar("T")

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
        general_available: Number of available general examples, or None for a stream, which is
            read in its own order.
        passes: Number of times that each task example appears in an epoch.
        order: Order of the epoch, see above.
        seed: Random seed, at least 0.
        batch_size: Number of examples in an optimizer step, over all processes.
        ranked: Whether to keep the order of the task examples, see above.

    Raises:
        RecipeError: A setting is out of range, or the order is `stratified` with a batch size of 1.
        DataError: The mixture is empty or too large, or an epoch needs more general examples than
            are available.
    """

    task_examples: int
    general_examples: int
    general_available: int | None
    passes: int
    order: Order
    seed: int
    batch_size: int
    ranked: bool = False

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            known = ", ".join(f"`{order}`" for order in get_args(Order))
            raise RecipeError(f"`mixture.order` must be one of {known}, not `{self.order}`.")
        for key, value, least in (
            ("mixture.passes", self.passes, 1),
            ("mixture.general_examples", self.general_examples, 0),
            ("training.batch_size", self.batch_size, 1),
            ("seed", self.seed, 0),
        ):
            if value < least:
                raise RecipeError(f"`{key}` must be at least {least}, not {value}.")
        if self.order == "stratified" and self.batch_size == 1:
            raise RecipeError(
                "`mixture.order: stratified` needs a batch size of at least 2: raise "
                "`training.batch_size`, or use `shuffled`."
            )
        if self.task_examples < 0:
            raise DataError(f"The number of task examples cannot be {self.task_examples}.")
        if not 1 <= self._size <= MAX_SIZE:
            raise DataError(
                f"A mixture must contain from 1 to 2**40 examples, not {self._size}: "
                f"{self.task_examples} task examples x {self.passes} passes "
                f"+ {self.general_examples} general examples."
            )
        if self.order == "stratified" and (self._task_slots + 1) * self._size >= 2**63:
            raise DataError(
                f"`mixture.order: stratified` does not support {self._task_slots} task examples "
                f"among {self._size}: lower `mixture.passes`, or use `shuffled`."
            )
        available = self.general_available
        if available is not None and not self.general_examples <= available <= MAX_SIZE:
            raise DataError(
                f"An epoch needs {self.general_examples} general examples, but {available} are "
                "available (at most 2**40 allowed): lower `mixture.general_examples` or "
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
    def _counts_on(self) -> bool:
        """Whether the example in a slot depends on the number of earlier slots of its kind."""
        return self.general_available is None or self.ranked

    @property
    def _size(self) -> int:
        # Python limits len(self) to the platform's index type, and this property is read before
        # the sizes are validated.
        return self._task_slots + self.general_examples

    def slots(self, epoch: int, start: int, stop: int) -> Slots:
        """Return a range of an epoch's slots, as a pure function of (seed, epoch, sizes).

        Time and memory grow only with `stop - start`. For a shuffled stream, the time also grows
        with the number of task slots. `batches` pays this cost only once.

        Args:
            epoch: Epoch, from 0.
            start: First slot, from 0.
            stop: One past the last slot, at most `len(self)`.

        Returns:
            Arrays of shape (stop - start,). For a stream, `index` continues from epoch to epoch.

        Raises:
            IndexError: The range is outside the epoch, or the epoch is negative.
        """
        self._check_places(epoch, start, stop)
        before = self.general_before(epoch, start) if self._counts_on else 0
        return self._slots(epoch, start, stop, before)

    def batches(
        self, epoch: int, start_batch: int = 0, shard: int = 0, shards: int = 1
    ) -> Iterator[Slots]:
        """Iterate over an epoch, one optimizer step at a time.

        The shards of a step partition its batch, for any number of shards. Each shard receives
        every step, so that the processes stay in sync. Its part can be empty in a smaller last
        batch, or if there are more shards than `batch_size`.

        Args:
            epoch: Epoch, from 0.
            start_batch: Number of completed steps.
            shard: Index of this process, from 0.
            shards: Number of processes that share each batch.

        Yields:
            This shard's part of each batch: every `shards`-th slot of it.

        Raises:
            IndexError: `epoch`, `start_batch` or `shard` is out of range.
        """
        if not 0 <= shard < shards:
            raise IndexError(f"Shard {shard} is not in range({shards}).")
        if not 0 <= start_batch <= self.batches_per_epoch:
            raise IndexError(f"Batch {start_batch} of {self.batches_per_epoch} does not exist.")
        start = min(start_batch * self.batch_size, self._size)
        self._check_places(epoch, start, self._size)
        return self._shard_batches(epoch, start, shard, shards)

    def general_before(self, epoch: int, position: int) -> int:
        """Count the general slots before a position, which a resumed stream must skip.

        Args:
            epoch: Epoch, from 0.
            position: Position from 0 to `len(self)`.

        Returns:
            Number of general slots among the first `position` slots of the epoch.

        Raises:
            IndexError: The position is outside the epoch, or the epoch is negative.
        """
        self._check_places(epoch, position, position)
        match self.order:
            case "task_first":
                return max(0, position - self._task_slots)
            case "general_first":
                return min(position, self.general_examples)
            case "stratified":
                edge = position - position % self.batch_size
                is_task, _ = self._draw(epoch, edge, position)
                task_before = int(self._quota(epoch, np.array([edge]))[0]) + int(is_task.sum())
            case "shuffled":
                order = self._order(epoch, self._size)
                task_before = sum(
                    int((order.inverse(part) < position).sum())
                    for part in _ranges(0, self._task_slots)
                )
        return position - task_before

    def _check_places(self, epoch: int, start: int, stop: int) -> None:
        if epoch < 0:
            raise IndexError(f"Epochs count from 0, so {epoch} does not exist.")
        if not 0 <= start <= stop <= self._size:
            raise IndexError(f"Slots {start} to {stop} are not in an epoch of {self._size}.")

    def _shard_batches(self, epoch: int, start: int, shard: int, shards: int) -> Iterator[Slots]:
        whole_batches = max(1, _CHUNK // self.batch_size) * self.batch_size
        for is_task, index in self._chunks(epoch, start, whole_batches):
            for first in range(0, len(index), self.batch_size):
                part = slice(first + shard, first + self.batch_size, shards)
                yield Slots(is_task[part], index[part])

    def _chunks(self, epoch: int, start: int, length: int = _CHUNK) -> Iterator[Slots]:
        """Yield chunks from `start` on, with a running count of general slots."""
        before = self.general_before(epoch, start) if self._counts_on else 0
        for first in range(start, self._size, length):
            chunk = self._slots(epoch, first, min(first + length, self._size), before)
            before += int((~chunk.is_task).sum())
            yield chunk

    def _slots(self, epoch: int, start: int, stop: int, general_before: int) -> Slots:
        is_task, ordinal = self._draw(epoch, start, stop)
        index = np.empty(stop - start, dtype=np.int64)
        if self.ranked:
            ordinal[is_task] = start - general_before + np.arange(int(is_task.sum()))
        if self.task_examples:
            index[is_task] = ordinal[is_task] % self.task_examples
        rank = epoch * self.general_examples
        if self.general_available is None:
            index[~is_task] = rank + general_before + np.arange(int((~is_task).sum()))
        else:
            index[~is_task] = general_index(
                rank + ordinal[~is_task], self.general_available, self.general_examples, self.seed
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


def interleave(
    mixture: Mixture, epoch: int, task: Sequence[T], general: Iterable[T], skip: int = 0
) -> Iterator[T]:
    """Mix task examples into a stream of general examples, in constant memory.

    Args:
        mixture: Mixture with `general_available=None`.
        epoch: Epoch, from 0.
        task: Task examples, `mixture.task_examples` in number.
        general: Stream at the start of this epoch. Only as many examples as the epoch needs are
            read, so the same iterator can be passed for the next epoch.
        skip: Number of examples already seen, in a resumed run. The general examples among them
            are read from the stream and discarded.

    Returns:
        Iterator over the examples of the epoch, starting after the first `skip`.

    Raises:
        ValueError: `mixture.general_available` is not None.
        IndexError: `epoch` or `skip` is out of range.
        DataError: The number of task examples does not match the mixture. The iterator raises it
            at the first slot that cannot be filled if the stream ends early.
    """
    if mixture.general_available is not None:
        raise ValueError("A stream needs a mixture with `general_available=None`.")
    if len(task) != mixture.task_examples:
        raise DataError(
            f"The mixture has {mixture.task_examples} task examples, but {len(task)} were given."
        )
    before = mixture.general_before(epoch, skip)
    return _interleave(mixture, epoch, task, general, skip, before)


def _interleave(
    mixture: Mixture,
    epoch: int,
    task: Sequence[T],
    general: Iterable[T],
    skip: int,
    general_before: int,
) -> Iterator[T]:
    supply = _supply(general, mixture.general_examples)
    deque(islice(supply, general_before), maxlen=0)
    for is_task, index in mixture._chunks(epoch, skip):
        for from_task, number in zip(is_task.tolist(), index.tolist(), strict=True):
            yield task[number] if from_task else next(supply)


def _supply(general: Iterable[T], asked: int) -> Iterator[T]:
    """Yield from the stream, and raise `DataError` if it ends early."""
    came = 0
    for example in general:
        came += 1
        yield example
    raise DataError(
        f"The stream of general data ended after {came} examples, but the epoch needs {asked}: "
        "lower `mixture.general_examples` or `mixture.leverage_ratio`, or add general data."
    )


def _ranges(start: int, stop: int) -> Iterator[NDArray[np.int64]]:
    for first in range(start, stop, _CHUNK):
        yield np.arange(first, min(first + _CHUNK, stop))
