"""Writing into the cache: the system's complaints become errors that say what to do."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stemsplit.errors import DiskFullError, OutputError

FREE_MARGIN_BYTES = 16 << 20
"""What has to stay free beyond the file itself: a full disk troubles everyone on the machine."""

FULL_HELP = "make room, or set STEMSPLIT_CACHE to a folder on a disk with more of it."
FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into one of stemsplit's.

    Args:
        path: What is being written: the message names it.

    Raises:
        DiskFullError: No space, or no quota, is left.
        OutputError: Anything else: no permission, a file where a folder should be ...
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL_ERRNOS:
            raise DiskFullError(
                f"the disk is full: {path} cannot be written", help=FULL_HELP
            ) from error
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}",
            help="mend that, or set STEMSPLIT_CACHE to a folder that you may write to.",
        ) from error


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to begin what cannot end.

    Args:
        folder: An existing folder on the disk in question.
        needed_bytes: How much is going to be written.

    Raises:
        DiskFullError: Less than this and a margin is free.
    """
    with translate_errors(folder):
        free = shutil.disk_usage(folder).free
    if free < needed_bytes + FREE_MARGIN_BYTES:
        raise DiskFullError(
            f"{folder} has {free / 1e6:.1f} MB left and {needed_bytes / 1e6:.1f} MB are needed",
            help=FULL_HELP,
        )


def make_folder(folder: Path) -> Path:
    """Create a folder with its parents where it is missing, and return it.

    Raises:
        OutputError: It cannot be made.
    """
    with translate_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def replace_file(source: Path, target: Path) -> None:
    """Move a finished file to its place: all of it is there afterwards, or nothing has changed.

    Args:
        source: On the same disk as `target`.
        target: Where it goes; a file that is there is replaced.

    Raises:
        OutputError: The place cannot be written to.
    """
    make_folder(target.parent)
    with translate_errors(target):
        # Without this a power cut can leave the new name with nothing behind it.
        with source.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(source, target)


def write_text(path: Path, text: str) -> None:
    """Write a small file, whole or not at all.

    Raises:
        OutputError: The place cannot be written to.
    """
    make_folder(path.parent)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with translate_errors(path):
            fresh.write_text(text, encoding="utf-8")
            os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return a path with "~" and "~user" as folders; where there is no such user, as it is."""
    return Path(os.path.expanduser(path))


def measure_size(path: Path) -> int:
    """Return the bytes in a file or a folder; 0 where there is none."""
    if path.is_file():
        return path.stat().st_size
    return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
