"""Adaptation of the number of compute threads to the number of free cores.

OpenMP splits every operation among its threads and waits for the last of them. If another process
occupies a core, all threads spin while they wait for the thread without a core. Fewer threads are
then faster: next to one busy process on two cores, the same training took 64 s with two threads
and 30 s with one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

# A user who sets one of these has chosen the number of threads. torchrun, accelerate and Ray set
# the first one for their workers.
_CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Seconds between two measurements of the load. A measurement took 0.3 ms.
_LOOK = 0.5
# Seconds over which the load is averaged. One thread too many costs more than one too few.
_RISING, _FALLING = 1.0, 3.0
# Cores in use by other processes above which a thread is given up, and below which one is added.
_GIVE_UP, _TAKE_BACK = 0.5, 0.2
_BUSY = ("user", "system", "irq", "softirq", "steal", "interrupt", "dpc")


def cpu_limit(root: Path = Path("/")) -> float:
    """Return how many cores this process may use: its affinity and its cgroups' quotas.

    At least 0.1; fractional if a quota is. `root` has `proc/self/cgroup` and `sys/fs/cgroup`.
    """
    return max(0.1, min([len(_own_cores()), *_quotas(root)]))


def threads_for(threads: int, free: float) -> int:
    """Return the next number of threads, given the current number and the number of free cores.

    The number stays the same between two bounds, so that it does not change at every measurement.
    """
    fewer = max(1, math.floor(free + _GIVE_UP))
    more = max(1, math.floor(free + _TAKE_BACK))
    return min(max(threads, more), fewer)


@contextmanager
def shared_cores() -> Iterator[None]:
    """Let `adapt_threads` set the number of threads, and restore the number on exit.

    The number is also adapted once on entry. The context does nothing if it is nested, if
    OMP_NUM_THREADS, MKL_NUM_THREADS or `torch.set_num_threads` set the number, or on a GPU.
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
    """Set the number of threads to the number of free cores; only inside `shared_cores`.

    Call it often, e.g. between two batches. It measures the load at most twice per second.
    """
    if not _SHARE.most:
        return
    import torch

    threads = _SHARE.threads()
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)


def watch_load() -> None:
    """Start measuring the load of other processes, so that it is known before computing starts."""
    _SHARE.look()


class _Share:
    """Share of the machine that is available to this process.

    Attributes:
        limit: Number of cores that this process may use.
        most: Maximum number of threads; 0 if the number must not be changed.
        others: Number of cores in use by other processes, averaged over the last seconds.
    """

    def __init__(self) -> None:
        self.limit = 1.0
        self.most = 0
        self.others = 0.0
        self._threads = 10**6
        self._looks = 0
        self._last = (0.0, 0.0, 0.0)

    def threads(self) -> int:
        """Return the number of threads to use from now on."""
        self.look()
        free = min(self.limit, len(_own_cores()) - self.others)
        self._threads = min(threads_for(self._threads, free), self.most)
        return self._threads

    def look(self) -> None:
        """Measure the load of other processes since the last measurement, unless it is recent."""
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
    """Return the total busy time in seconds of this process's cores since the machine started."""
    each = psutil.cpu_times(percpu=True)
    own = _own_cores()
    cores = [each[i] for i in own] if max(own) < len(each) else each
    names = _BUSY if _niced_gives_way() else (*_BUSY, "nice")
    return sum(float(getattr(core, name, 0.0)) for core in cores for name in names)


def _niced_gives_way() -> bool:
    """Return whether lower-priority processes yield their cores to this process.

    If Linux shares cores among sessions (autogroup), priorities apply within a session only.
    """
    with suppress(OSError):
        if Path("/proc/sys/kernel/sched_autogroup_enabled").read_text().strip() != "0":
            return False
    return hasattr(os, "nice") and os.nice(0) <= 0


def _own_cores() -> list[int]:
    """Return the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _is_default(threads: int) -> bool:
    """Return whether `threads` is torch's default number of threads."""
    if any(name in os.environ for name in _CHOSEN):
        return False
    cores = len(_own_cores())
    return threads in (cores, min(cores, _physical_cores()))


@cache
def _physical_cores() -> int:
    return psutil.cpu_count(logical=False) or psutil.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """Yield CPU quotas in cores of this process's cgroups and their parents (versions 1, 2)."""
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
        # In a container the path may be the host's, of which only the top is visible.
        with suppress(OSError, ValueError, ZeroDivisionError):
            words = " ".join((folder / name).read_text(encoding="utf-8") for name in names)
            quota, period = map(float, words.split())  # "max" raises ValueError
            if quota > 0:  # -1 means no limit
                yield quota / period
        if folder == top:
            return
