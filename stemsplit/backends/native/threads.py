"""The threads that share a convolution's work: as many as torch has."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise

import torch

_LOCK = threading.Lock()
_POOL: ThreadPoolExecutor | None = None


def run_shares(work: Callable[[int, int], object], count: int, fewest: int) -> None:
    """Do a number of things, each thread a run of them.

    Args:
        work: Takes the first thing and the one behind the last.
        count: How many there are.
        fewest: That are worth a thread.
    """
    threads = min(torch.get_num_threads(), -(-count // fewest))
    if threads <= 1:
        work(0, count)
        return
    edges = [count * place // threads for place in range(threads + 1)]
    runs: list[Future[object]] = []
    try:
        runs += [_find_pool().submit(work, first, last) for first, last in pairwise(edges)]
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
