"""Token ids of many examples, in memory or mapped from disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["EncodedSet", "EncodedWriter"]

# Examples looked at together where all of them are: a megabyte of offsets.
_BLOCK = 2**17


@dataclass(frozen=True)
class EncodedSet:
    """Token ids of many examples, in memory or mapped from disk.

    Attributes:
        ids: int32 (total tokens,), all examples one after another.
        offsets: int64 (n + 1,), where each example starts.
        prompt_lengths: int32 (n,), how many of an example's tokens carry no loss.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    prompt_lengths: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    def __getitem__(self, index: int) -> tuple[NDArray[np.int32], int]:
        """The ids of one example, (length,), and the length of its prompt."""
        start, stop = self.offsets[index], self.offsets[index + 1]
        return self.ids[start:stop], int(self.prompt_lengths[index])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example, prompt and response, (n,). An array in memory: 8 bytes each."""
        return np.diff(self.offsets)

    @property
    def response_lengths(self) -> NDArray[np.int64]:
        """Tokens of each example that carry loss, (n,). An array in memory: 8 bytes each."""
        return self.lengths - self.prompt_lengths

    @property
    def longest(self) -> int:
        """Tokens of the longest example, 0 if there is none; memory does not grow with n."""
        blocks = (self.offsets[i : i + _BLOCK + 1] for i in range(0, len(self), _BLOCK))
        return max((int(np.diff(block).max()) for block in blocks), default=0)

    def take(self, indices: NDArray[np.int64]) -> EncodedSet:
        """Some of the examples, in the order of `indices`; a copy."""
        rows = [self[int(i)] for i in indices]
        lengths = np.array([len(ids) for ids, _ in rows], np.int64)
        return EncodedSet(
            np.concatenate([np.empty(0, np.int32), *(ids for ids, _ in rows)]),
            np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            np.array([prompt for _, prompt in rows], np.int32),
        )

    @classmethod
    def joined(cls, parts: Sequence[EncodedSet]) -> EncodedSet:
        """One set of several, in order; of none, an empty one."""
        ids = [np.empty(0, np.int32), *(part.ids for part in parts)]
        lengths = [np.zeros(1, np.int64), *(part.lengths for part in parts)]
        prompts = [np.empty(0, np.int32), *(part.prompt_lengths for part in parts)]
        return cls(np.concatenate(ids), np.cumsum(np.concatenate(lengths)), np.concatenate(prompts))

    def save(self, folder: Path) -> None:
        """Write three .npy files into an existing folder."""
        for name in _NAMES:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path) -> EncodedSet:
        """Map a saved set from disk; nothing is read before it is used."""
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in _NAMES))


_NAMES = ("ids", "offsets", "prompt_lengths")


class EncodedWriter:
    """Saves a set that never stands in memory: parts are appended to the files.

    Args:
        folder: Existing; holds what `EncodedSet.save` would have written once this is closed.
    """

    def __init__(self, folder: Path) -> None:
        self._ids = _GrowingArray(folder / "ids.npy", np.int32)
        self._offsets = _GrowingArray(folder / "offsets.npy", np.int64)
        self._prompt_lengths = _GrowingArray(folder / "prompt_lengths.npy", np.int32)
        self._tokens = 0
        self._offsets.append(np.zeros(1, np.int64))

    def append(self, part: EncodedSet) -> None:
        """Add a set's examples behind the others."""
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
    """An .npy file of one dimension that is told its length when it is closed."""

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
            # NumPy pads a header to a multiple of 64 bytes, with room for a length of 21 digits.
            if self._file.tell() != self._body:
                raise RuntimeError(f"{self._file.name}: the header has outgrown its place.")
            self._file.flush()
            os.fsync(self._file.fileno())

    def _write_header(self) -> None:
        description = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": description, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, header)
