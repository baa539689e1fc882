"""Choices that look random and are the same on every machine and in every process."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["pick", "stable_number"]

T = TypeVar("T")


def stable_number(*parts: str) -> int:
    """A 64-bit number made from the parts; unlike `hash()`, it never depends on the process."""
    digest = blake2b("\x1f".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def pick(options: Sequence[T], *parts: str) -> T:
    """The option that the parts choose, each option about equally often."""
    return options[stable_number(*parts) % len(options)]
