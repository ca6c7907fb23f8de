"""Ctrl-C, and a request to end: what is under way is cleaned up before the command ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from stemsplit.cli import EXIT_STOPPED


@contextlib.contextmanager
def stop_flag() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and a request to end set, for work that ends by itself then.

    What waits for something else meanwhile asks the event as well. A second signal, later than
    those that follow the first within a second, ends at once.
    """
    flag = threading.Event()
    asked_s: list[float] = []

    def stop(number: int, frame: Any) -> None:
        asked_s.append(time.monotonic())
        flag.set()
        if asked_s[-1] - asked_s[0] > 1:
            os._exit(EXIT_STOPPED)

    with _handling(stop):
        yield flag


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Clean up when Ctrl-C or a request to end (SIGTERM) comes; a second one, later, ends at once.

    Signals that follow within a second belong to the first: `timeout` and others send several.
    """
    asked_s: list[float] = []

    def stop(number: int, frame: Any) -> None:
        asked_s.append(time.monotonic())
        if len(asked_s) == 1:
            raise KeyboardInterrupt
        if asked_s[-1] - asked_s[0] > 1:
            # What was being written is in a folder of its own, which the next run takes away.
            os._exit(EXIT_STOPPED)

    with _handling(stop):
        yield


@contextlib.contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Whoever runs it in a thread handles signals.
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
