"""The threads that share a convolution's work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from stemsplit.backends.native import threads
from stemsplit.backends.native.threads import run_shares, run_together


@pytest.mark.parametrize(("count", "fewest", "expected"), [(10, 3, 3), (10, 6, 2), (1, 6, 1)])
def test_every_thing_is_done_once(
    count: int, fewest: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    done: list[int] = []
    shares: list[int] = []

    def work(first: int, end: int) -> None:
        shares.append(end - first)
        done.extend(range(first, end))

    run_shares(work, count, fewest)
    assert sorted(done) == list(range(count))
    assert len(shares) == expected
    assert max(shares) - min(shares) <= 1


def test_works_run_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3)
    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(threads, "_find_pool", lambda: pool)
        run_together([lambda: together.wait(10)] * 3)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_error_comes_when_all_are_through(place: int) -> None:
    done: list[int] = []

    def make(number: int) -> Callable[[], None]:
        def work() -> None:
            if number == place:
                raise ValueError("this one")
            time.sleep(0.1 * (number < 2))  # those in other threads take longer
            done.append(number)

        return work

    with pytest.raises(ValueError, match="this one"):
        run_together([make(number) for number in range(3)])
    assert sorted(done) == sorted({0, 1, 2} - {place})
