"""Handlers of SIGINT and SIGTERM within a block."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def handling(take: Callable[[int], None]) -> Iterator[Callable[[], None]]:
    """Call a function with the number of each SIGINT and SIGTERM that comes within the block.

    Outside of the main thread, where Python allows no handlers, nothing is done.

    Yields:
        Function that restores the earlier handlers before the end of the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {
        number: signal.signal(number, lambda number, _: take(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    try:
        yield restore
    finally:
        restore()
