"""Settings of a whole process: for programs to make, before torch; never by the library itself."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_LARGEST = 2**31 - 1


def let_idle_threads_sleep() -> None:
    """Let OpenMP's threads sleep between pieces of work instead of asking for more in a loop.

    ffmpeg runs beside the network: a thread that waits by spinning takes the core that another
    process needs. Of use only before torch is imported; a setting that is there is left alone.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def keep_freed_memory() -> bool:
    """Let freed memory stay with this process, and so be used again without being zeroed first.

    glibc gets every large array from the kernel and gives it back when it is freed; the kernel
    zeroes the pages of the next one. A separator frees and allocates the same arrays for every
    chunk: with this, the work around a Spleeter network takes about a third of the time. The
    process keeps its peak until it ends.

    Returns:
        Whether there was a glibc to tell.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False  # another C library
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST))
