"""A clock on which results that were kept count as if they had been made again."""

from __future__ import annotations

import time

_spared = 0.0


def clock() -> float:
    """Return a time in seconds, of which differences include what kept results once took.

    What a method costs thus depends neither on the cache nor on the methods before it.
    """
    return time.perf_counter() + _spared


def spare(seconds: float) -> None:
    """Move `clock` forward by the time that making a kept result took, in seconds."""
    global _spared
    _spared += seconds
