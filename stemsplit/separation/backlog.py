"""A thread that works off what it is handed, in order, and never falls far behind."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

_WAKE_S = 0.2

ItemT = TypeVar("ItemT")


class _End:
    """The last thing in a queue."""


_END: Final = _End()


class Backlog(Generic[ItemT]):
    """Hand items to a function in a thread of its own; whoever is too fast waits.

    An exception in the function comes out of the next `put`, or of `join`. After one, and after
    `stop`, items are dropped, so that neither side can wait for ever.
    """

    def __init__(self, consume: Callable[[ItemT], None], *, depth: int) -> None:
        """Start the thread.

        Args:
            consume: What is done with every item.
            depth: How many may wait.
        """
        self._consume = consume
        self._queue: queue.Queue[ItemT | _End] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="backlog", daemon=True)
        self._thread.start()

    def put(self, item: ItemT) -> None:
        """Hand over an item, waiting while `depth` others do."""
        self._put(item)
        self._raise()

    def join(self) -> None:
        """Wait until everything is worked off."""
        self._put(_END)
        while self._thread.is_alive():
            self._thread.join(_WAKE_S)
        self._raise()

    def stop(self) -> None:
        """Drop what waits. The item in hand is finished; `wait` says when."""
        self._stopping.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(_END)

    def wait(self, timeout_s: float) -> None:
        """Wait for the thread after `stop`, raising nothing."""
        self._thread.join(timeout_s)

    def _put(self, item: ItemT | _End) -> None:
        while True:
            self._raise()
            # Waiting in short turns lets Ctrl-C through where a lock would not (Windows).
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=_WAKE_S)
                return

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, _End):
                return
            if self._stopping.is_set() or self._error is not None:
                continue
            try:
                self._consume(item)
            except BaseException as error:
                self._error = error
