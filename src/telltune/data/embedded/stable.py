"""Pseudo-random choices that are identical on every machine and in every process."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")


def stable_number(*parts: str) -> int:
    """Return a 64-bit hash of the parts, which is the same in every process, unlike `hash()`."""
    digest = blake2b("\x1f".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def pick(parts: Sequence[str], *options: T) -> T:
    """Return an option chosen by a hash of the parts, with about equal frequencies."""
    return options[stable_number(*parts) % len(options)]
