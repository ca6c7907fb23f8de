"""Whether it is the destination that fails, and not the songs: the rest need not be tried then."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator

from stemsplit.batch.job import Ending
from stemsplit.batch.storage import is_url, join, open_storage
from stemsplit.errors import DiskFullError, InUseError, OutputError, StorageError

_TRIAL_NAME = ".stemsplit-trial"


def try_destination(dest: str) -> None:
    """Write an empty file into the destination, and take it away again.

    Args:
        dest: From `settle_name`.

    Raises:
        OutputError: It may not be written, or has no room for a name.
        StorageError: Object storage does not answer.
    """
    storage = open_storage(dest)
    trial = join(dest, _TRIAL_NAME)
    storage.write(trial, b"")
    storage.remove(trial)


def stop_with_destination(
    endings: Generator[Ending], dest: str, cancelled: threading.Event
) -> Generator[Ending]:
    """Pass the endings of songs on; stop once there is no place for stems any more.

    A song whose stems could not be written has the destination tried. What fails for that song
    alone, a file of somebody else's in its place or a name that is too long, stops nothing.

    Args:
        endings: From an engine. What is under way comes to its end.
        dest: Where the stems go.
        cancelled: The engine's; it is set.

    Raises:
        OutputError: The destination cannot be written to; the last thing that happens.
    """
    fault: OutputError | None = None
    with contextlib.closing(endings):
        for ending in endings:
            yield ending
            if fault is None:
                fault = _find_fault(ending, dest)
                if fault is not None:
                    cancelled.set()
    if fault is not None:
        raise type(fault)(f"the batch was stopped: {fault.message}", help=fault.help)


def _find_fault(ending: Ending, dest: str) -> OutputError | None:
    """Return what is wrong with the destination, if that is why a song failed."""
    error = ending.error
    if not isinstance(error, OutputError) or isinstance(error, InUseError):
        return None
    is_all_here = not is_url(dest) and not is_url(ending.song.name)
    if isinstance(error, DiskFullError) and is_all_here:
        return error  # What the song had written is gone again: a trial would find room.
    try:
        try_destination(dest)
    except OutputError:
        return error
    except StorageError:
        pass  # Whether it may be written to, nobody knows now; songs try again by themselves.
    return None
