"""Token ids of many examples, in memory or mapped from disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# Number of examples per block in scans over all examples: 1 MiB of offsets.
_BLOCK = 2**17


@dataclass(frozen=True)
class EncodedSet:
    """Token ids of many examples, in memory or mapped from disk.

    Attributes:
        ids: Token ids of all examples, concatenated, int32 of shape (total tokens,).
        offsets: Start of each example in `ids`, and the end of the last, int64 of shape (n + 1,).
        prompt_lengths: Number of tokens without loss per example, int32 of shape (n,).
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    prompt_lengths: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    def __getitem__(self, index: int) -> tuple[NDArray[np.int32], int]:
        """Return the ids of one example, shape (length,), and the length of its prompt."""
        start, stop = self.offsets[index], self.offsets[index + 1]
        return self.ids[start:stop], int(self.prompt_lengths[index])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens per example, with the prompt, shape (n,), in memory (8 bytes each)."""
        return np.diff(self.offsets)

    @property
    def response_lengths(self) -> NDArray[np.int64]:
        """Number of tokens with loss per example, shape (n,), in memory (8 bytes each)."""
        return self.lengths - self.prompt_lengths

    @property
    def longest(self) -> int:
        """Number of tokens of the longest example, 0 if empty. Memory does not grow with n."""
        blocks = (self.offsets[i : i + _BLOCK + 1] for i in range(0, len(self), _BLOCK))
        return max((int(np.diff(block).max()) for block in blocks), default=0)

    def take(self, indices: NDArray[np.int64]) -> EncodedSet:
        """Return a copy of some examples, in the order of `indices`."""
        rows = [self[int(i)] for i in indices]
        lengths = np.array([len(ids) for ids, _ in rows], np.int64)
        return EncodedSet(
            np.concatenate([np.empty(0, np.int32), *(ids for ids, _ in rows)]),
            np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            np.array([prompt for _, prompt in rows], np.int32),
        )

    @classmethod
    def of(cls, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> EncodedSet:
        """Return the set of examples whose token ids are given; responses carry loss."""
        rows = [row for pair in zip(prompts, responses, strict=True) for row in pair]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls(
            np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum())),
            np.concatenate([[0], np.cumsum(lengths.reshape(-1, 2).sum(1))]).astype(np.int64),
            lengths[::2].astype(np.int32),
        )

    @classmethod
    def joined(cls, parts: Sequence[EncodedSet]) -> EncodedSet:
        """Concatenate sets in order. Without parts, return an empty set."""
        ids = [np.empty(0, np.int32), *(part.ids for part in parts)]
        lengths = [np.zeros(1, np.int64), *(part.lengths for part in parts)]
        prompts = [np.empty(0, np.int32), *(part.prompt_lengths for part in parts)]
        return cls(np.concatenate(ids), np.cumsum(np.concatenate(lengths)), np.concatenate(prompts))

    @classmethod
    def load(cls, folder: Path) -> EncodedSet:
        """Map the three files of an `EncodedWriter` from disk. Data are read on access."""
        names = ("ids", "offsets", "prompt_lengths")
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in names))


class EncodedWriter:
    """Writer that appends parts to the files of a set, which is never in memory as a whole.

    Args:
        folder: Existing folder; its three .npy files are complete after closing.
    """

    def __init__(self, folder: Path) -> None:
        self._ids = _GrowingArray(folder / "ids.npy", np.int32)
        self._offsets = _GrowingArray(folder / "offsets.npy", np.int64)
        self._prompt_lengths = _GrowingArray(folder / "prompt_lengths.npy", np.int32)
        self._tokens = 0
        self._offsets.append(np.zeros(1, np.int64))

    def append(self, part: EncodedSet) -> None:
        """Append a set's examples."""
        self._ids.append(part.ids)
        self._offsets.append(part.offsets[1:] + self._tokens)
        self._prompt_lengths.append(part.prompt_lengths)
        self._tokens += int(part.offsets[-1])

    def __enter__(self) -> EncodedWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for array in (self._ids, self._offsets, self._prompt_lengths):
            array.close()


class _GrowingArray:
    """One-dimensional .npy file whose length is written on closing."""

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        self._dtype = np.dtype(dtype)
        self._file = path.open("wb")
        self._length = 0
        self._write_header()
        self._body = self._file.tell()

    def append(self, values: NDArray[np.int32] | NDArray[np.int64]) -> None:
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self._length += len(values)

    def close(self) -> None:
        with self._file:
            self._file.seek(0)
            self._write_header()
            # NumPy pads headers to a multiple of 64 bytes, enough for a length of 21 digits.
            if self._file.tell() != self._body:
                raise RuntimeError(f"{self._file.name}: the header exceeds its reserved space.")
            self._file.flush()
            os.fsync(self._file.fileno())

    def _write_header(self) -> None:
        description = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": description, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, header)
