"""Run an iterator in a thread of its own, a few items ahead of who takes them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

_PATIENCE_S: Final = 0.05


@dataclass(frozen=True)
class _Item(Generic[Item]):
    value: Item


@dataclass(frozen=True)
class _End:
    error: BaseException | None


def prefetch(items: Iterable[Item], depth: int) -> Generator[Item]:
    """Yield the same items, computed in a background thread at most `depth` ahead.

    An exception of the producer is raised here, behind the items that came before it. Closing the
    generator stops the producer after the item it is at and waits for its thread.

    Args:
        items: Iterated in the thread.
        depth: How many finished items may wait.
    """
    waiting: queue.Queue[_Item[Item] | _End] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: _Item[Item] | _End) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=_PATIENCE_S)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put(_Item(item)):
                    return
        except BaseException as error:  # handed to the thread that takes
            put(_End(error))
        else:
            put(_End(None))

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while isinstance(got := waiting.get(), _Item):
            yield got.value
        if got.error is not None:
            raise got.error
    finally:
        stopped.set()
        thread.join()
