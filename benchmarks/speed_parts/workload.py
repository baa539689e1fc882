"""Examples of each optimizer step as token ids, for every trainer. Needs NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Workload:
    """Distinct examples, and their numbers in each step.

    Attributes:
        ids: Token ids of all distinct examples in a row, int32.
        offsets: Start of each example, int64 (examples + 1,).
        prompt_lengths: Number of tokens without loss of each example, int32 (examples,).
        is_task: Whether each example is of the task, bool (examples,).
        steps: Numbers of the examples, int64 (steps, examples per step).
        task_share: Share of task examples in the whole mixture.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    prompt_lengths: NDArray[np.int32]
    is_task: NDArray[np.bool_]
    steps: NDArray[np.int64]
    task_share: float

    def example(self, number: int) -> tuple[NDArray[np.int32], int]:
        """Return the ids of an example, and the length of its prompt."""
        start, stop = self.offsets[number], self.offsets[number + 1]
        return self.ids[start:stop], int(self.prompt_lengths[number])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each example, (examples,)."""
        return np.diff(self.offsets)

    @property
    def step_tokens(self) -> list[int]:
        """Tokens of each step without padding; shared prefixes count every time."""
        return [int(self.lengths[step].sum()) for step in self.steps]

    @property
    def step_responses(self) -> list[int]:
        """Response tokens of each step."""
        return [int((self.lengths - self.prompt_lengths)[step].sum()) for step in self.steps]

    @property
    def step_distinct(self) -> list[int]:
        """Tokens of each step if the common start of its task examples counts once."""
        counts = []
        for step, tokens in zip(self.steps, self.step_tokens, strict=True):
            prompts = [self.example(i)[0][: self.prompt_lengths[i] - 1] for i in step]
            shared = [p for p, i in zip(prompts, step, strict=True) if self.is_task[i]]
            common = _common(shared) if len(shared) > 1 else 0
            counts.append(tokens - common * max(len(shared) - 1, 0))
        return counts

    def first(self, steps: int) -> Workload:
        """Return a workload of the first steps only."""
        kept = self.steps[:steps]
        return Workload(
            self.ids, self.offsets, self.prompt_lengths, self.is_task, kept, self.task_share
        )

    def save(self, path: Path) -> None:
        """Write one .npz file."""
        np.savez(path, **self.__dict__)

    @classmethod
    def load(cls, path: str | Path) -> Workload:
        """Read a file of `save`."""
        with np.load(path) as file:
            return cls(**{name: file[name] for name in file.files})

    def by_length(self, step: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a step's examples, the longest first, so that rows need little padding."""
        return step[np.argsort(-self.lengths[step], kind="stable")]


def _common(rows: list[NDArray[np.int32]]) -> int:
    length = min(len(row) for row in rows)
    for row in rows[1:]:
        differs = np.flatnonzero(row[:length] != rows[0][:length])
        length = int(differs[0]) if len(differs) else length
    return length
