"""Settings of a whole process: for programs to make, before torch; never by the library itself."""

from __future__ import annotations

import gc
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_LARGEST = 2**31 - 1
_TRIM_EVERY_S = 5.0
_FEWEST_CODE_KB = 1024


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
    The code that ran for it is let go of.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401  # for what comes after
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
    let_go_of_code()


def let_go_of_code() -> None:
    """Let go of the pages of libraries' code that ran until now; what runs again is mapped again.

    An import runs much code for the only time: torch registers its thousands of functions from all
    over 60 MiB, which the kernel would count as this process's memory until it ran short of it.
    The pages are the files' own and stay where the kernel keeps files. Only Linux tells which they
    are.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    try:
        regions = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace")
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return  # no /proc here, or another C library
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end in _find_code(regions):
        madvise(start, end - start, mmap.MADV_DONTNEED)


def _find_code(smaps: str) -> Iterator[tuple[int, int]]:
    """Yield where code lies that is as its file has it, of which there is much in memory.

    Pages that a debugger, or the loader, has written to are no longer the file's ("Anonymous"), and
    would be lost. See `man 5 proc_pid_smaps`.
    """
    start = end = 0
    is_code = is_much = False
    for line in smaps.splitlines():
        name, *values = line.split()
        if not name.endswith(":"):  # 7f00-7fff r-xp 00000000 08:01 4711 /lib/some.so
            start, end = (int(address, 16) for address in name.split("-"))
            is_code = values[0] == "r-xp" and len(values) > 4 and values[4].startswith("/")
        elif name == "Rss:":
            is_much = int(values[0]) >= _FEWEST_CODE_KB
        elif name == "Anonymous:" and is_code and is_much and int(values[0]) == 0:
            yield start, end


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
