from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from stemsplit.separation.prefetch import prefetch


def test_items_come_in_order() -> None:
    assert list(prefetch(range(100), depth=3)) == list(range(100))


def test_an_error_comes_behind_the_items_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    items = prefetch(broken(), depth=3)
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_it_runs_ahead_no_further_than_its_depth() -> None:
    made = []
    enough = threading.Event()

    def endless() -> Iterator[int]:
        for number in range(10**9):
            made.append(number)
            if number == 3:
                enough.set()
            yield number

    items = prefetch(endless(), depth=2)
    assert next(items) == 0
    assert enough.wait(10)
    items.close()
    assert len(made) <= 5


def test_closing_stops_and_joins_the_thread() -> None:
    before = threading.active_count()
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    items = prefetch(endless(), depth=2)
    next(items)
    items.close()
    assert threading.active_count() == before
    assert closed.wait(10)
