"""Weight files of a model: which are safe to open, and a fingerprint of local models."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["WEIGHTS", "fingerprint", "has_only_pickles", "weight_files"]

_SAFE = frozenset({".safetensors"})
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt"})
WEIGHTS = _SAFE | _PICKLES | {".gguf", ".h5", ".msgpack", ".onnx"}
"""File suffixes of weight files."""


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a model, sorted by name; empty if there is no such folder."""
    return _ending_in(folder, _SAFE) or _ending_in(folder, _PICKLES)


def has_only_pickles(folder: Path) -> bool:
    """Return whether all weights are pickles, which can run code when they are opened."""
    return bool(_ending_in(folder, _PICKLES)) and not _ending_in(folder, _SAFE)


def fingerprint(folder: Path) -> str:
    """Return a hash of the name, size and first megabyte of each weight file.

    This distinguishes models without reading all weights, which takes minutes for a large model.
    """
    digest = hashlib.sha256()
    for path in weight_files(folder):
        digest.update(f"{path.name}:{path.stat().st_size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
    return digest.hexdigest()[:16]


def _ending_in(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in suffixes)
