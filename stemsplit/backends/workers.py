"""Pieces of work side by side on a processor's cores."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from typing_extensions import ParamSpec

from stemsplit.dsp.memory import use_own_arena
from stemsplit.dsp.threads import set_own_threads

Args = ParamSpec("Args")
Result = TypeVar("Result")

_WAKE_S = 0.2


FEW_THREADS = 3
"""So many share the work of one large chunk."""


def count_workers(device: torch.device, *, is_large: bool = False) -> int:
    """Return how many chunks are best computed at once: two on a processor of several cores.

    Every layer of a network ends with a wait for its slowest thread, and transforms and masks run
    on one core only. Two chunks on half of the cores each fill those gaps with one another's work,
    at the price of a second chunk in memory. A GPU fills itself.

    Args:
        device: Where they run.
        is_large: Whether a chunk takes much memory, and keeps a few cores busy.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or (is_large and threads <= FEW_THREADS):
        return 1
    return 2


BATCH_ON_CARDS = 4
"""Chosen, not measured: enough that a recurrent layer's steps are no longer all waiting."""


def choose_batch_size(device: torch.device, *, is_large: bool = False) -> int:
    """Return how many chunks at most are best taken through a network together, as one batch.

    On a graphics card the steps of a recurrent layer, and small layers, are too little to keep it
    busy. A processor's cores are filled by one chunk each: what a batch saves a network there, by
    reading its matrices once for several frames, the song loses again in memory.

    Args:
        device: Where they run.
        is_large: Whether a chunk takes much memory.
    """
    return BATCH_ON_CARDS if device.type == "cuda" and not is_large else 1


def _begin_worker(threads: int) -> None:
    set_own_threads(threads)
    use_own_arena()


class _Threads:
    """Torch's number of threads, which a worker sets for itself and for all threads to come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._borrowers = 0
        self._own = 0

    def borrow(self) -> int:
        """Return the caller's number, and remember it if nobody has changed it yet."""
        with self._lock:
            if not self._borrowers:
                self._own = torch.get_num_threads()
            self._borrowers += 1
            return torch.get_num_threads()

    def give_back(self) -> None:
        """Restore the number once the last borrower is through."""
        with self._lock:
            self._borrowers -= 1
            if not self._borrowers:
                set_own_threads(self._own)


_THREADS = _Threads()


class Workers:
    """Threads with an equal share of torch's threads each, begun at the first piece of work.

    One worker is the caller itself.

    Attributes:
        depth: How many pieces may be under way while the caller looks for the next: one for each
            worker, and for all but one of them the next, as they often end together.
    """

    def __init__(self, count: int) -> None:
        """Prepare.

        Args:
            count: How many pieces run at once.
        """
        self.depth = 2 * count - 1 if count > 1 else 0
        self._pool: ThreadPoolExecutor | None = None
        if count > 1:
            share = -(-_THREADS.borrow() // count)
            self._pool = ThreadPoolExecutor(
                count, "chunk", initializer=_begin_worker, initargs=(share,)
            )

    def submit(
        self, work: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs
    ) -> Future[Result]:
        """Have a piece of work done, some time."""
        if self._pool is not None:
            return self._pool.submit(work, *args, **kwargs)
        done: Future[Result] = Future()
        done.set_result(work(*args, **kwargs))
        return done

    def close(self) -> None:
        """Drop what has not begun. What has is finished, and nobody waits for it."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
            _THREADS.give_back()


def wait_for(future: Future[Result]) -> Result:
    """Return a result, waiting in short turns: Ctrl-C comes through on every platform."""
    while True:
        try:
            return future.result(timeout=_WAKE_S)
        except concurrent.futures.TimeoutError:
            if future.done():
                return future.result()  # or the work's own error, which may be of this kind
