"""Opening what a person gave, with an answer for every way in which that fails."""

from __future__ import annotations

import codecs
import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, NoReturn

from stemsplit.errors import DecodeError

_SNIFFED_BYTES: Final = 4096
_TEXT_CONTROLS: Final = frozenset(b"\t\n\r\f\x1b")
_PLAYLIST_STARTS: Final = (b"#EXTM3U", b"ffconcat version", b"[playlist]", b"[Reference]")


@contextlib.contextmanager
def open_readable(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading; what fails, here or while it is read, is told in one sentence.

    Raises:
        DecodeError: No such file, no permission, or a disk that does not answer.
    """
    with _telling(path), path.open("rb") as file:
        yield file


def check_readable(path: Path) -> os.stat_result:
    """Return the status of a regular file that can be opened and has something in it.

    Raises:
        DecodeError: It is not such a file, or is text.
    """
    with _telling(path):
        status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise DecodeError(
            f"{str(path)!r} is a folder", help="give the files in it, as in 'folder/*.flac'."
        )
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError(
            f"{str(path)!r} is not a regular file",
            help="save it as a file first, or pipe it in and give '-' as the name.",
        )
    with open_readable(path) as file:
        start = file.read(_SNIFFED_BYTES)
    if not start:
        raise DecodeError(
            f"{str(path)!r} is empty: it has 0 bytes", help="get the file again from where it was."
        )
    _refuse_text(path, start)
    return status


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DecodeError(
            f"there is no file {str(path)!r}", help="check the spelling and the folder."
        ) from error
    except PermissionError as error:
        raise DecodeError(
            f"{str(path)!r} cannot be read: permission denied",
            help="give yourself the right to read it, as with chmod.",
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DecodeError(
            f"{str(path)!r} cannot be read: {reason}", help="check the name and the disk."
        ) from error


def _refuse_text(path: Path, start: bytes) -> None:
    stripped = start.removeprefix(codecs.BOM_UTF8).lstrip()
    if stripped.startswith(_PLAYLIST_STARTS) or b"<MPD" in start:
        refuse_playlist(path)
    if is_text(start):
        raise DecodeError(f"{str(path)!r} is text, not audio", help="give a sound or video file.")


def refuse_playlist(path: Path) -> NoReturn:
    """Say what to give in a playlist's place."""
    raise DecodeError(
        f"{str(path)!r} is a playlist, not audio",
        help="give the sound files that it lists; nothing that it names was opened.",
    )


def is_text(start: bytes) -> bool:
    """Say whether the beginning of a file is UTF-8 without control characters."""
    if any(byte < 32 and byte not in _TEXT_CONTROLS for byte in start):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return True
