"""Freed memory kept for the next tensor."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Ask glibc to keep what is freed, for this process, and say whether it does.

    By default every tensor of more than some megabytes is mapped from the kernel and given back,
    and each of its pages is zeroed anew; training makes thousands a step. Elsewhere than on Linux
    with glibc this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
