"""Standard input as a file: many formats are read back and forth, a pipe only runs forward."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Final

from stemsplit.audio.part_file import explain_os_error
from stemsplit.errors import DecodeError, EmptyAudioError

_CHUNK_BYTES: Final = 1 << 20


def spool_stream(stream: BinaryIO, folder: Path) -> Path:
    """Copy a stream to a new temporary file, holding a megabyte of it at a time.

    Args:
        stream: Read to its end.
        folder: Where the file goes; it is made if it is not there.

    Returns:
        The file, which the caller removes.

    Raises:
        EmptyAudioError: Nothing came.
        DecodeError: The stream could not be read.
        DiskFullError: The folder's disk is full.
        OutputError: The folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="stemsplit-stdin-", dir=folder)
    except OSError as error:
        raise explain_os_error(error, folder) from error
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            size = _copy(stream, file, folder)
        if size == 0:
            raise EmptyAudioError(
                "nothing came in on standard input", help="pipe a sound file into this program."
            )
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _copy(stream: BinaryIO, file: BinaryIO, folder: Path) -> int:
    size = 0
    while chunk := _read(stream):
        size += len(chunk)
        try:
            file.write(chunk)
            file.flush()
        except OSError as error:
            raise explain_os_error(error, folder) from error
    return size


def _read(stream: BinaryIO) -> bytes:
    try:
        return stream.read(_CHUNK_BYTES)
    except OSError as error:
        raise DecodeError(
            f"standard input could not be read: {error.strerror or error}",
            help="check the program that it comes from, or give a file's name.",
        ) from error
