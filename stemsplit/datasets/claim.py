"""A folder to write to: by one run at a time, and never over what the tracks are made from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from stemsplit.audio.part_file import explain_os_error
from stemsplit.datasets.track import Dataset
from stemsplit.errors import UsageError

LOCK_NAME: Final = ".prepare.lock"


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Make a folder where it is missing, and keep other runs out of it meanwhile.

    Two would take away each other's unfinished tracks.
    Nothing stays of a folder in which nothing has come to be.

    Raises:
        UsageError: Another run is writing there.
        OutputError: The place cannot be written to.
    """
    import filelock

    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = filelock.FileLock(folder / LOCK_NAME)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UsageError(
            f"another `stemsplit prepare` is writing {str(folder)!r}",
            help="wait for it, or name another folder with -o.",
        ) from None
    except OSError as error:
        raise explain_os_error(error, folder) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            # While it is held: whoever comes now makes a new one.
            (folder / LOCK_NAME).unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):
            for place in missing:
                place.rmdir()


def refuse_sources(dataset: Dataset, folders: Iterable[Path]) -> None:
    """Refuse to replace a folder that holds what tracks are made from.

    Args:
        dataset: The tracks.
        folders: Those that would be replaced.

    Raises:
        UsageError: One holds a recording, or a link to one, anywhere below it.
    """
    # A link is lost with the folder that it is in, and what it leads to is not.
    held = {
        folder: file.path
        for track in dataset.tracks
        for file in track.files
        for place in (file.path, file.path.resolve())
        for folder in (place.parent.resolve() / place.name).parents
    }
    for folder in sorted(folders):
        path = held.get(folder.resolve())
        if path is not None:
            raise UsageError(
                f"{str(folder)!r} would be replaced, and holds {path.name!r}, a source",
                help="choose a folder outside of the data set with -o; the same as --root indexes "
                "the files where they are.",
            )
