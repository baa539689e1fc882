"""How many threads compute: as many as this process has cores free.

OpenMP splits every operation among its threads and waits for the last of them. Where another
process holds one of the cores, all wait for the thread that has none, and they spin while they
wait. Fewer threads are quicker then: on two cores beside one busy process the same training took
64 s with two threads and 30 s with one.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "adapt_threads",
    "cpu_limit",
    "shared_cores",
    "threads_for",
    "watch_load",
]

# Who sets one of these has chosen; torchrun, accelerate and Ray set the first for their workers.
_CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Seconds between two looks at the machine. A look took 0.3 ms.
_LOOK = 0.5
# Seconds over which the load is averaged. A thread too many costs more than one too few.
_RISING, _FALLING = 1.0, 3.0
# Cores in use by others before a thread is given up, and until one is taken back.
_GIVE_UP, _TAKE_BACK = 0.5, 0.2
_BUSY = ("user", "system", "irq", "softirq", "steal", "interrupt", "dpc")


def cpu_limit(root: Path = Path("/")) -> float:
    """Return how many cores this process may use: its affinity and its cgroups' quotas.

    Args:
        root: Holds `proc/self/cgroup` and `sys/fs/cgroup`.

    Returns:
        At least 0.1; not a whole number where a quota is not.
    """
    return max(0.1, min([len(_own_cores()), *_quotas(root)]))


def threads_for(threads: int, free: float) -> int:
    """Return how many threads should follow on `threads`, with so many cores free.

    Between the two bounds the number stays, so that it does not change at every look.
    """
    fewer = max(1, math.floor(free + _GIVE_UP))
    more = max(1, math.floor(free + _TAKE_BACK))
    return min(max(threads, more), fewer)


@contextmanager
def shared_cores() -> Iterator[None]:
    """Let `adapt_threads` choose the number of threads; afterwards it is what it was before.

    It chooses once itself, for work that is done in one go. It does nothing within itself, where
    OMP_NUM_THREADS, MKL_NUM_THREADS or `torch.set_num_threads` chose the number, or where a GPU
    computes.
    """
    import torch

    before = torch.get_num_threads()
    within = _SHARE.most > 0
    if within or torch.cuda.is_available() or not _is_default(before):
        yield
        return
    limit = cpu_limit()
    _SHARE.limit, _SHARE.most = limit, max(1, min(before, round(limit)))
    adapt_threads()
    try:
        yield
    finally:
        _SHARE.most = 0
        torch.set_num_threads(before)


def adapt_threads() -> None:
    """Compute with as many threads as there are cores free, within `shared_cores`.

    Call it often, such as between two batches: it looks at the machine at most twice a second.
    """
    if not _SHARE.most:
        return
    import torch

    threads = _SHARE.threads()
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)


def watch_load() -> None:
    """Begin to measure what others use, so that it is known when computing begins."""
    _SHARE.look()


class _Share:
    """The part of the machine that is left for this process.

    Attributes:
        limit: Cores that it may use.
        most: Threads that it may use; 0 where nobody is to change their number.
        others: Cores that other processes use of them, averaged over the last seconds.
    """

    def __init__(self) -> None:
        self.limit = 1.0
        self.most = 0
        self.others = 0.0
        self._threads = 10**6
        self._looks = 0
        self._last = (0.0, 0.0, 0.0)

    def threads(self) -> int:
        """How many to compute with from here on."""
        self.look()
        free = min(self.limit, len(_own_cores()) - self.others)
        self._threads = min(threads_for(self._threads, free), self.most)
        return self._threads

    def look(self) -> None:
        """Measure what others have used since the last look, unless that was just now."""
        at = time.monotonic()
        passed = at - self._last[0]
        if self._looks and passed < _LOOK:
            return
        busy, own = _busy_seconds(), time.process_time()
        if self._looks:
            used = max(0.0, (busy - self._last[1]) - (own - self._last[2])) / passed
            span = _RISING if used > self.others else _FALLING
            weight = 1 - math.exp(-passed / span) if self._looks > 1 else 1.0
            self.others += weight * (used - self.others)
        self._looks += 1
        self._last = (at, busy, own)


_SHARE = _Share()


def _busy_seconds() -> float:
    """Seconds that the cores of this process have worked since the machine started."""
    each = psutil.cpu_times(percpu=True)
    own = _own_cores()
    cores = [each[i] for i in own] if max(own) < len(each) else each
    names = _BUSY if _niced_gives_way() else (*_BUSY, "nice")
    return sum(float(getattr(core, name, 0.0)) for core in cores for name in names)


def _niced_gives_way() -> bool:
    """Whether work at a lower priority leaves the cores to this process.

    Where Linux shares cores among sessions (autogroup), priorities count within a session only.
    """
    with suppress(OSError):
        if Path("/proc/sys/kernel/sched_autogroup_enabled").read_text().strip() != "0":
            return False
    return hasattr(os, "nice") and os.nice(0) <= 0


def _own_cores() -> list[int]:
    """The numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _is_default(threads: int) -> bool:
    """Whether torch would use so many threads if nobody had told it how many."""
    if any(name in os.environ for name in _CHOSEN):
        return False
    cores = len(_own_cores())
    return threads in (cores, min(cores, _physical_cores()))


@cache
def _physical_cores() -> int:
    return psutil.cpu_count(logical=False) or psutil.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """The CPU quotas, in cores, of this process's cgroups and those above (versions 1 and 2)."""
    mounted = root / "sys/fs/cgroup"
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                for top in (mounted, mounted / "unified"):
                    yield from _quotas_of(top, path, "cpu.max")
            elif "cpu" in controllers.split(","):
                for top in (mounted / controllers, mounted / "cpu"):
                    yield from _quotas_of(top, path, "cpu.cfs_quota_us", "cpu.cfs_period_us")


def _quotas_of(top: Path, path: str, *names: str) -> Iterator[float]:
    own = top / path.strip("/")
    for folder in (own, *own.parents):
        # In a container the path may be the host's, of which only the top is there to see.
        with suppress(OSError, ValueError, ZeroDivisionError):
            words = " ".join((folder / name).read_text(encoding="utf-8") for name in names)
            quota, period = map(float, words.split())  # "max" is no number
            if quota > 0:  # -1 stands for no limit
                yield quota / period
        if folder == top:
            return
