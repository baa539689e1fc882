"""A model's weight files: which may be opened, and what a model on this machine is known by."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["WEIGHTS", "fingerprint", "has_only_pickles", "weight_files"]

_SAFE = frozenset({".safetensors"})
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt"})
WEIGHTS = _SAFE | _PICKLES | {".gguf", ".h5", ".msgpack", ".onnx"}
"""What files with weights end in."""


def weight_files(folder: Path) -> list[Path]:
    """The files that a model's weights are read from, by name; none where it is no folder here."""
    return _ending_in(folder, _SAFE) or _ending_in(folder, _PICKLES)


def has_only_pickles(folder: Path) -> bool:
    """Whether opening a model's weights could run code that stands in them."""
    return bool(_ending_in(folder, _PICKLES)) and not _ending_in(folder, _SAFE)


def fingerprint(folder: Path) -> str:
    """A hash of a model's weight files, by name, size and first megabyte.

    The whole of a large model would take minutes to read; this tells two models apart.
    """
    digest = hashlib.sha256()
    for path in weight_files(folder):
        digest.update(f"{path.name}:{path.stat().st_size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
    return digest.hexdigest()[:16]


def _ending_in(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in suffixes)
