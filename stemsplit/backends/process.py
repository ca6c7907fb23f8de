"""Settings of a whole process: for programs to make, before torch; never by the library itself."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_LARGEST = 2**31 - 1
_TRIM_EVERY_S = 5.0


def let_idle_threads_sleep() -> None:
    """Let threads that wait for work sleep, instead of asking for it in a loop.

    A thread that waits by spinning takes the core that the network, or ffmpeg, needs. OpenMP's
    threads can be told to sleep; numpy's OpenBLAS cannot, and its products here are small enough
    for one. Of use only before numpy and torch are imported; settings that are there are left
    alone.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def import_torch() -> None:
    """Import torch without a search for garbage, of which an import makes none.

    Python searches whenever so many objects are there that were not: in half a million of torch's
    that takes a tenth of the time of its import. They stay, and later searches pass them over.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401  # for what comes after
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def keep_freed_memory() -> bool:
    """Let freed memory stay with this process, and so be used again without being zeroed first.

    glibc gets every large array from the kernel and gives it back when it is freed; the kernel
    zeroes the pages of the next one. A separator frees and allocates the same arrays for every
    chunk: with this, the work around a Spleeter network takes about a third of the time. All
    threads share one heap, since only the first can keep large arrays.

    Holes that no array fills again would add up over hours. So every few seconds what is free goes
    back to the kernel after all, and what comes again in every chunk lies elsewhere
    (`stemsplit.dsp.memory`).

    Returns:
        Whether there was a glibc to tell.
    """
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    try:
        glibc = ctypes.CDLL("libc.so.6")
        mallopt, trim = glibc.mallopt, glibc.malloc_trim
    except (OSError, AttributeError):
        return False  # another C library
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _LARGEST, _M_ARENA_MAX: 1}
    if not all(mallopt(setting, value) for setting, value in settings.items()):
        return False

    threading.Thread(target=_give_back_holes, args=(trim,), name="trim", daemon=True).start()
    return True


def _give_back_holes(trim: Callable[[int], object]) -> None:
    """Give the kernel, for ever, what is free between the arrays that are there."""
    while True:
        time.sleep(_TRIM_EVERY_S)
        trim(0)
