"""Any excerpt of a recording by seeking, exact to the sample: a song is never decoded as a whole.

WAV of 16 or 24 bits or 32-bit floats is read here, which is faster; flac and other WAV by
soundfile. Files are opened for every excerpt: a handle that is kept saves little, and could be used
neither by several threads nor after a fork.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from stemsplit.audio.wav import FLOAT, PCM, parse_header
from stemsplit.datasets.track import AudioFile
from stemsplit.errors import DatasetError, UsageError

SEEKABLE: Final = (".wav", ".flac")
"""How the names of files end that excerpts can be read from."""

Samples = NDArray[np.float32]
_Coding = Literal["int16", "int24", "float32"]
_CODINGS: Final[dict[tuple[int, int], _Coding]] = {
    (PCM, 2): "int16",
    (PCM, 3): "int24",
    (FLOAT, 4): "float32",
}
_KEPT_HEADERS: Final = 4096


@dataclass(frozen=True)
class FileInfo:
    """What a sound file's header says.

    Attributes:
        samples: Of each channel, those that are really there.
        sample_rate: Hz.
        channels: How many.
    """

    samples: int
    sample_rate: int
    channels: int


@dataclass(frozen=True)
class _Layout:
    """Where a WAV file's samples are.

    Attributes:
        info: How many there are.
        offset: Bytes before the first.
        coding: How each is written.
    """

    info: FileInfo
    offset: int
    coding: _Coding


def read_excerpt(file: AudioFile, start: int, count: int) -> Samples:
    """Read samples `start` to `start + count`; zeros where the file has ended.

    Integer samples of b bits are divided by 2^(b-1). Threads and forked processes may read the same
    file at once.

    Args:
        file: A wav or flac file.
        start: The first sample, from 0.
        count: How many.

    Returns:
        A new array. Shape: (channels, count).

    Raises:
        DatasetError: The file cannot be read so, or not at all.
        UsageError: It is a flac file and soundfile is not installed.
    """
    if start < 0 or count < 0:
        raise ValueError(f"no excerpt has start {start} and count {count}")
    with _explained(file), file.path.open("rb") as opened:
        layout = _find_layout(file, opened)
        if layout is None:
            return _read_by_soundfile(opened, start, count)
        return _read_wav(opened, layout, start, count)


def read_info(file: AudioFile) -> FileInfo:
    """Read a file's header: its length, rate and channels.

    Raises:
        DatasetError: The file cannot be read.
        UsageError: It is a flac file and soundfile is not installed.
    """
    with _explained(file), file.path.open("rb") as opened:
        layout = _find_layout(file, opened)
        if layout is not None:
            return layout.info
        with import_soundfile().SoundFile(opened) as sound:
            return FileInfo(sound.frames, sound.samplerate, sound.channels)


@contextmanager
def _explained(file: AudioFile) -> Iterator[None]:
    """Refuse what cannot be searched, and say in two lines what goes wrong with the rest."""
    if file.path.suffix.lower() not in SEEKABLE:
        raise DatasetError(
            f"no excerpt can be read from {str(file.path)!r}: only wav and flac can be searched",
            help="decode the data set once: stemsplit prepare --root FOLDER -o NEW_FOLDER",
        )
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(
            f"there is no file {str(file.path)!r} any more",
            help="bring it back, or start again without it.",
        ) from error
    # soundfile.LibsndfileError, which may not be imported, is a RuntimeError.
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(
            f"{str(file.path)!r} cannot be read: {reason}",
            help="get the file again, or take its track out of the data set.",
        ) from error


def _find_layout(file: AudioFile, opened: IO[bytes]) -> _Layout | None:
    """Return where a WAV file's samples are; None for one that soundfile has to read."""
    if file.path.suffix.lower() != ".wav":
        return None
    status = os.fstat(opened.fileno())
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return _parse(file.path, identity)


@functools.lru_cache(_KEPT_HEADERS)
def _parse(path: Path, identity: tuple[int, int, int, int]) -> _Layout | None:
    """Parse a WAV file's header; the answer is remembered until the file changes."""
    with path.open("rb") as file:
        header = parse_header(file.read)
        offset = file.tell()
    if header is None or header.channels < 1 or header.sample_rate < 1:
        return None
    coding = _CODINGS.get((header.coding, header.block_bytes // header.channels))
    if coding is None or header.block_bytes % header.channels:
        return None
    there = max(0, identity[2] - offset)
    size = there if header.data_bytes is None else min(there, header.data_bytes)
    info = FileInfo(size // header.block_bytes, header.sample_rate, header.channels)
    return _Layout(info, offset, coding)


def _read_wav(file: IO[bytes], layout: _Layout, start: int, count: int) -> Samples:
    channels = layout.info.channels
    out = np.zeros((channels, count), np.float32)
    found = max(0, min(count, layout.info.samples - start))
    if not found:
        return out
    width = int(layout.coding.removeprefix("int").removeprefix("float")) // 8
    # One byte more in front: a 24-bit sample is read with the byte before it, as 32 bits.
    file.seek(layout.offset + start * channels * width - 1)
    raw = file.read(1 + found * channels * width)
    found = (len(raw) - 1) // (channels * width)
    for channel in range(channels):
        first = 1 + channel * width
        into = out[channel, :found]
        if layout.coding == "int24":
            frames = _view(raw, "<i4", first - 1, found, channels * width)
            np.multiply(frames >> 8, np.float32(2.0**-23), out=into, casting="same_kind")
        elif layout.coding == "int16":
            frames = _view(raw, "<i2", first, found, channels * width)
            np.multiply(frames, np.float32(2.0**-15), out=into)
        else:
            into[:] = _view(raw, "<f4", first, found, channels * width)
    return out


def _view(raw: bytes, kind: str, first: int, count: int, step: int) -> NDArray[Any]:
    """Return numbers that lie every `step` bytes. Shape: (count,)."""
    seen: NDArray[Any] = np.ndarray((count,), np.dtype(kind), raw, first, (step,))
    return seen


def _read_by_soundfile(file: IO[bytes], start: int, count: int) -> Samples:
    with import_soundfile().SoundFile(file) as sound:
        out: Samples = np.zeros((sound.channels, count), np.float32)
        if start < sound.frames:
            sound.seek(start)
            found = sound.read(count, dtype="float32", always_2d=True)
            out[:, : len(found)] = found.T
    return out


def import_soundfile() -> Any:
    """Return the module soundfile.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import soundfile
    except ImportError as error:
        raise UsageError(
            "flac, and WAV of unusual samples, need the package soundfile, which is not installed",
            help='install it: pip install "stemsplit[train]"',
        ) from error
    return soundfile
