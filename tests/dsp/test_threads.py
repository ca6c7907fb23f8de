"""The threads that share the work of one chunk."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stemsplit.dsp import memory, threads
from stemsplit.dsp.memory import new_empty
from stemsplit.dsp.threads import run_pieces, run_shares, run_together, set_own_threads


@pytest.mark.parametrize(("count", "fewest", "expected"), [(10, 3, 3), (10, 6, 2), (1, 6, 1)])
def test_every_thing_is_done_once(
    count: int, fewest: int, expected: int, set_threads: Callable[[int], None]
) -> None:
    set_threads(3)
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


def test_what_stops_the_caller_waits_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    waits = []
    real = threads.wait

    def interrupted(runs: list[object]) -> object:
        waits.append(len(runs))
        if len(waits) < 3:
            raise KeyboardInterrupt
        return real(runs)  # type: ignore[arg-type]  # the futures that it was given

    def work() -> None:
        time.sleep(0.1)
        ended.set()

    monkeypatch.setattr(threads, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_together([work, lambda: None])
    assert ended.is_set()
    assert waits == [1, 1, 1]


class TestPieces:
    @pytest.fixture(autouse=True)
    def two_threads(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Torch's threads here, and a pool of as many whatever the machine has."""
        self.monkeypatch = monkeypatch
        before = torch.get_num_threads()
        set_own_threads(2)
        with ThreadPoolExecutor(2, initializer=threads._begin) as pool:
            monkeypatch.setattr(threads, "_find_pool", lambda: pool)
            yield
        set_own_threads(before)

    @torch.no_grad()
    def test_one_thread_each_at_the_same_time(self) -> None:
        together = threading.Barrier(2)
        counts: list[int] = []

        def work() -> None:
            together.wait(10)
            counts.append(torch.get_num_threads())
            run_pieces([lambda: counts.append(torch.get_num_threads())] * 2)

        run_pieces([work] * 2)
        assert counts == [1] * 6
        assert torch.get_num_threads() == 2
        others: list[int] = []
        new = threading.Thread(target=lambda: others.append(torch.get_num_threads()))
        new.start()
        new.join()
        assert others == [2], "a thread to come takes the number that the caller has"

    @torch.no_grad()
    def test_they_compute_as_the_caller_would(self) -> None:
        known: list[tuple[bool, bool, torch.dtype]] = []
        weight = torch.ones(2, 2, requires_grad=True)

        def work() -> None:
            product = weight @ weight
            known.append((product.requires_grad, product.is_inference(), product.dtype))

        run_pieces([work] * 2)
        with torch.autocast("cpu", torch.bfloat16):
            run_pieces([work] * 2)
            with torch.inference_mode():
                run_pieces([work] * 2)
        run_pieces([work] * 2)
        plain, lowered = (False, False, torch.float32), (False, False, torch.bfloat16)
        assert known[:4] == [plain, plain, lowered, lowered]
        assert known[4:] == [(False, True, torch.bfloat16)] * 2 + [plain, plain]

    @torch.no_grad()
    def test_their_arrays_lie_among_the_callers(self) -> None:
        arrays: list[torch.Tensor] = []

        def work() -> None:
            arrays.append(new_empty(torch.zeros(1), (memory.FEWEST_BYTES,)))

        @torch.no_grad()
        def call() -> None:
            memory.use_own_arena()
            set_own_threads(2)
            run_pieces([work] * 2)
            lease = memory.current_lease()
            assert lease is not None
            loans = {loan.segment for loan in lease.arena._loans.values()}
            counts.append((len(loans), len(lease.arena._loans)))

        counts: list[tuple[int, int]] = []
        caller = threading.Thread(target=call)
        caller.start()
        caller.join()
        assert counts == [(1, 2)]
        del arrays[:]
        run_pieces([work] * 2)
        places = {
            np.frombuffer(loan.segment.memory, np.uint8).ctypes.data + loan.start
            for loan in memory._COMMON._loans.values()
        }
        assert {one.data_ptr() for one in arrays} <= places

    def test_who_counts_operations_sees_all(self) -> None:
        square = torch.ones(4, 4)
        with FlopCounterMode(display=False) as counter:
            run_pieces([lambda: square @ square] * 3)
        assert counter.get_total_flops() == 3 * 2 * 4**3

    def test_no_more_run_than_the_caller_has_threads(self) -> None:
        running: list[int] = []
        most: list[int] = []

        def work() -> None:
            running.append(1)
            most.append(len(running))
            time.sleep(0.01)
            running.pop()

        with ThreadPoolExecutor(8, initializer=threads._begin) as pool:
            self.monkeypatch.setattr(threads, "_find_pool", lambda: pool)
            run_pieces([work] * 20)
        assert len(most) == 20
        assert max(most) <= 2

    def test_who_asks_for_gradients_gets_them(self) -> None:
        weight = torch.ones(2, requires_grad=True)
        products: list[torch.Tensor] = []
        run_pieces([lambda: products.append(weight * 2)] * 3)
        torch.stack(products).sum().backward()
        assert weight.grad is not None
        assert weight.grad.tolist() == [6, 6]

    @torch.no_grad()
    def test_a_piece_does_by_itself_what_threads_would_share(self) -> None:
        places: list[str] = []

        def work() -> None:
            run_together([lambda: places.append(threading.current_thread().name)] * 4)

        run_pieces([work] * 6)
        assert len(places) == 24
        assert threading.current_thread().name not in places

    @torch.no_grad()
    def test_threads_to_come_take_the_callers_number_whatever_begins(self) -> None:
        for _ in range(20):
            with ThreadPoolExecutor(4, initializer=threads._begin) as pool:
                together = threading.Barrier(4)
                for run in [pool.submit(together.wait, 10) for _ in range(4)]:
                    run.result()
            with ThreadPoolExecutor(1) as new:
                assert new.submit(torch.get_num_threads).result() == 2

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
    def test_a_forked_process_has_threads_of_its_own(self) -> None:
        code = """
import os, threading, torch
from stemsplit.dsp.threads import run_pieces, run_together
torch.set_num_threads(2)
def work():
    pass
with torch.no_grad():
    run_pieces([work] * 4)
    child = os.fork()
    if not child:
        run_pieces([work] * 4)
        run_together([work] * 2)
        os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout == "3\n"

    @torch.no_grad()
    def test_an_error_of_any_is_raised_when_all_are_through(self) -> None:
        done: list[int] = []

        def fail() -> None:
            raise ValueError("this one")

        def work() -> None:
            time.sleep(0.1)
            done.append(1)

        with pytest.raises(ValueError, match="this one"):
            run_pieces([work, fail, work, work])
        assert done == [1], "what has begun is finished, and no more is begun"

    @torch.no_grad()
    def test_an_interrupt_leaves_what_has_not_begun(self) -> None:
        done: list[int] = []
        real = threads.wait

        def interrupted(runs: Any) -> object:
            if not done:
                time.sleep(0.05)
                done.append(0)
                raise KeyboardInterrupt
            return real(runs)

        def work() -> None:
            time.sleep(0.1)
            done.append(1)

        self.monkeypatch.setattr(threads, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_pieces([work] * 20)
        assert done == [0, 1, 1], "the two that had begun"
