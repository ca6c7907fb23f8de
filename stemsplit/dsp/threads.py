"""Threads that share the work of one chunk: as many as the caller has of torch's."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch

from stemsplit.dsp.memory import current_lease, use_lease

Item = TypeVar("Item")

_LOCK = threading.Lock()
_POOL: ThreadPoolExecutor | None = None
_NUMBER = threading.Lock()
"""Held where torch's number of threads is changed for a while, which threads to come take over."""


class _Own(threading.local):
    """What a thread knows of itself."""

    is_helper = False


_OWN = _Own()


def set_own_threads(count: int) -> None:
    """Set torch's number of threads for the calling thread, whatever others set meanwhile.

    A thread that has never asked torch for its number takes, when it first does, the one that any
    thread has set last (ATen/ParallelOpenMP.cpp, `lazy_init_num_threads`). So it asks before.
    """
    torch.get_num_threads()
    with _NUMBER:
        torch.set_num_threads(count)


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
        works: At least one; none waits for another. An error of any of them is raised when all are
            through.
    """
    *others, own = works
    _run_beside(others, own)


def run_pieces(works: Sequence[Callable[[], object]]) -> None:
    """Do pieces of work that torch computes, each of them by one thread.

    Torch's own way, all threads on every step of it, has them wait for one another at every step.

    Args:
        works: Arrays of theirs lie among the caller's. An error of any of them, or an interrupt, is
            raised when those that have begun are through; no other begins. Where gradients are
            recorded, one after the other in the caller's thread.
    """
    threads = min(len(works), torch.get_num_threads())
    # Modes that see all of a thread's calls (counters, fakes) see no other thread's.
    is_watched = torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack() > 0
    if threads == 1 or is_watched or torch.is_grad_enabled():
        for work in works:
            work()
        return
    lease = current_lease()
    is_lowered = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu")
    is_inference = torch.is_inference_mode_enabled()
    waiting = deque(works)

    def run() -> None:
        # By hand: the end of a `with torch.autocast` clears what all threads have lowered.
        torch.set_autocast_enabled("cpu", is_lowered)
        torch.set_autocast_dtype("cpu", dtype)
        with torch.inference_mode(is_inference), torch.no_grad(), use_lease(lease):
            while (work := take(waiting)) is not None:
                try:
                    work()
                except BaseException:
                    waiting.clear()  # nobody wants the rest
                    raise

    _run_beside([run] * threads, stop=waiting.clear)


def take(waiting: deque[Item]) -> Item | None:
    """Return what is first, once to whichever thread asks for it; None if there is no more."""
    try:
        return waiting.popleft()
    except IndexError:
        return None


def _run_beside(
    others: Sequence[Callable[[], object]],
    own: Callable[[], object] | None = None,
    stop: Callable[[], object] = lambda: None,
) -> None:
    """Do pieces of work in other threads, and one in the caller's.

    A helper does all by itself: another's would wait for it.

    Args:
        others: For other threads.
        own: For the caller.
        stop: Called when the caller is interrupted: what has not begun is not to begin.
    """
    runs: list[Future[object]] = []
    try:
        for work in others:
            if _OWN.is_helper:
                work()
            else:
                runs.append(_find_pool().submit(work))
        if own is not None:
            own()
    finally:
        _wait_for_all(runs, stop)
    for run in runs:
        run.result()


def _wait_for_all(runs: Sequence[Future[Any]], stop: Callable[[], object]) -> None:
    """Wait, whatever stops the caller: what they write to stays until the last is through."""
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            wait(runs)
        except KeyboardInterrupt as error:
            interrupt = error
            stop()
            continue
        break
    if interrupt is not None:
        raise interrupt


def _find_pool() -> ThreadPoolExecutor:
    """Return the threads, begun when first needed."""
    global _POOL
    with _LOCK:
        if _POOL is None:
            _POOL = ThreadPoolExecutor(os.cpu_count(), "pieces", initializer=_begin)
        return _POOL


def _begin() -> None:
    """Have torch use this thread alone here, and let threads to come take the number they would."""
    _OWN.is_helper = True
    with _NUMBER:
        count = torch.get_num_threads()
        torch.set_num_threads(1)
        # The number is the caller's own, and that of threads to come.
        other = threading.Thread(target=torch.set_num_threads, args=(count,))
        other.start()
        other.join()


def _forget_pool() -> None:
    """Begin anew in a process that was forked: no thread came along."""
    global _LOCK, _NUMBER, _POOL
    _LOCK, _NUMBER, _POOL = threading.Lock(), threading.Lock(), None
    _OWN.is_helper = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
