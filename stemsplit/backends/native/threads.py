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


def count_threads(count: int, fewest: int) -> int:
    """Return how many threads a number of things are worth, of those that torch has.

    Args:
        count: How many there are.
        fewest: That are worth a thread.
    """
    return max(1, min(torch.get_num_threads(), -(-count // fewest)))


def run_shares(work: Callable[[int, int], object], count: int, fewest: int) -> None:
    """Do a number of things, each thread a run of them.

    Args:
        work: Takes the first thing and the one behind the last.
        count: How many there are.
        fewest: That are worth a thread.
    """
    threads = count_threads(count, fewest)
    edges = [count * place // threads for place in range(threads + 1)]
    run_together([partial(work, *share) for share in pairwise(edges)])


def run_together(works: Sequence[Callable[[], object]]) -> None:
    """Do pieces of work, each in a thread of its own, the last of them in the caller's.

    Args:
        works: At least one. An error of any of them is raised when all are through.
    """
    *others, own = works
    runs: list[Future[object]] = []
    try:
        for work in others:
            runs.append(_find_pool().submit(work))
        own()
    finally:
        # Whatever stops the caller, what they write to stays until the last is through.
        wait(runs)
    for run in runs:
        run.result()


def _find_pool() -> ThreadPoolExecutor:
    """Return the threads, begun when first needed."""
    global _POOL
    with _LOCK:
        if _POOL is None:
            _POOL = ThreadPoolExecutor(os.cpu_count(), "tiles")
        return _POOL
