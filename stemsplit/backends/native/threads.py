"""The threads that share a convolution's work: as many as torch has."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import pairwise

import torch

_LOCK = threading.Lock()
_POOL: ThreadPoolExecutor | None = None


def cut_shares(count: int, fewest: int) -> list[tuple[int, int]]:
    """Cut a number of things into a run of them for each thread.

    Args:
        count: How many there are.
        fewest: That are worth a thread.

    Returns:
        Of each run the first thing, and the one behind the last.
    """
    threads = max(1, min(torch.get_num_threads(), -(-count // fewest)))
    return list(pairwise(count * place // threads for place in range(threads + 1)))


def run_shares(work: Callable[[int, int], object], count: int, fewest: int) -> None:
    """Do a number of things, each thread a run of them.

    Args:
        work: Takes the first thing and the one behind the last.
        count: How many there are.
        fewest: That are worth a thread.
    """
    run_together([partial(work, *share) for share in cut_shares(count, fewest)])


def run_together(works: Sequence[Callable[[], object]]) -> None:
    """Do pieces of work, each in a thread of its own, the last of them in the caller's."""
    *others, own = works
    runs: list[Future[object]] = []
    try:
        runs += [_find_pool().submit(work) for work in others]
        own()
        for run in runs:
            run.result()
    finally:
        # Whatever stops the caller, what they write to stays until the last is through.
        wait(runs)


def _find_pool() -> ThreadPoolExecutor:
    """Return the threads, begun when first needed."""
    global _POOL
    with _LOCK:
        if _POOL is None:
            _POOL = ThreadPoolExecutor(os.cpu_count(), "tiles")
        return _POOL
