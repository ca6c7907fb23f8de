from __future__ import annotations

import threading

import pytest

from stemsplit.separation.backlog import Backlog


def test_a_backlog_keeps_the_order_and_waits_for_the_slow():
    seen: list[int] = []
    backlog: Backlog[int] = Backlog(seen.append, depth=1)
    for number in range(100):
        backlog.put(number)
    backlog.join()
    assert seen == list(range(100))


def test_a_backlog_never_holds_more_than_its_depth():
    gate, taken = threading.Event(), threading.Semaphore(0)

    def consume(item: int) -> None:
        taken.release()
        gate.wait()

    backlog: Backlog[int] = Backlog(consume, depth=2)
    for number in range(3):
        backlog.put(number)
    taken.acquire()
    assert backlog._queue.full()
    threading.Timer(0.05, gate.set).start()
    backlog.put(3)
    backlog.join()


def test_a_backlog_that_failed_says_so_and_never_blocks():
    def fail(item: int) -> None:
        raise LookupError(str(item))

    backlog: Backlog[int] = Backlog(fail, depth=1)

    def put_many() -> None:
        for number in range(100):
            backlog.put(number)

    with pytest.raises(LookupError, match="0"):
        put_many()
    with pytest.raises(LookupError, match="0"):
        backlog.join()
    backlog.stop()
    backlog.wait(10)
    assert not backlog._thread.is_alive()


def test_a_backlog_does_nothing_more_after_a_failure():
    gate, seen = threading.Event(), []

    def fail(item: int) -> None:
        gate.wait()
        seen.append(item)
        raise LookupError

    backlog: Backlog[int] = Backlog(fail, depth=2)
    for number in range(3):
        backlog.put(number)
    gate.set()
    with pytest.raises(LookupError):
        backlog.join()
    backlog.stop()
    backlog.wait(10)
    assert seen == [0]


def test_stopping_a_backlog_drops_what_waits():
    gate, started, seen = threading.Event(), threading.Event(), []

    def consume(item: int) -> None:
        started.set()
        gate.wait()
        seen.append(item)

    backlog: Backlog[int] = Backlog(consume, depth=2)
    for number in range(3):
        backlog.put(number)
    started.wait()
    backlog.stop()
    gate.set()
    backlog.wait(10)
    assert seen == [0]
    assert not backlog._thread.is_alive()
