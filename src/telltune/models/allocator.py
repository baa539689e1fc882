"""Reuse of freed memory by the C allocator."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory in this process, and return whether it accepted.

    By default, glibc maps every tensor above a few megabytes from the kernel and returns it
    afterwards, so its pages are zeroed each time. Training allocates thousands of tensors per
    step. On systems without glibc this function does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
