"""Where a stem's samples end up: a WAV file written here, or an ffmpeg that writes any other."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from stemsplit.audio.codec import build_encoder, name_raw_format
from stemsplit.audio.cover import encode_picture, read_cover
from stemsplit.audio.ffmpeg import VARIABLE, Process, name_file
from stemsplit.audio.formats import OutputFormat
from stemsplit.audio.metadata import build_metadata
from stemsplit.audio.part_file import PartFile, explain_os_error
from stemsplit.audio.wav import build_header
from stemsplit.errors import DiskFullError, EncodeError, OutputError, StemsplitError

_FULL: Final = "No space left on device"
_IN_OGG: Final = ("ogg", "opus")


class Sink(Protocol):
    """Takes interleaved samples, little-endian, as wide as the format says."""

    def write(self, frames: memoryview) -> None:
        """Append samples."""

    def finish(self, samples: int) -> None:
        """Complete the part file, which has this number of samples in each channel."""

    def abort(self) -> None:
        """Let go of everything but the part file; from any thread, at any time, also twice."""


class WavSink:
    """Writes the part file itself; the header comes last, when its sizes are known."""

    def __init__(
        self,
        place: PartFile,
        sample_rate: int,
        channels: int,
        bits: int,
        tags: Mapping[str, str],
    ) -> None:
        """Open the part file and leave room for the header."""
        self._place = place
        self._sample_rate = sample_rate
        self._channels = channels
        self._bits = bits
        self._tags = tags
        self._lock = threading.Lock()
        try:
            self._file = place.part.open("wb", buffering=0)
        except OSError as error:
            raise explain_os_error(error, place.path) from error
        try:
            self.write(memoryview(self._build_header(0)))
        except BaseException:
            self.abort()
            raise

    def _build_header(self, samples: int) -> bytes:
        return build_header(
            sample_rate=self._sample_rate,
            channels=self._channels,
            bits=self._bits,
            samples=samples,
            tags=self._tags,
        )

    def write(self, frames: memoryview) -> None:
        """Append samples."""
        try:
            with self._lock:
                while frames:
                    frames = frames[self._file.write(frames) :]
        except (OSError, ValueError) as error:  # ValueError: aborted meanwhile
            raise explain_os_error(error, self._place.path) from error

    def finish(self, samples: int) -> None:
        """Pad the data to an even size and write the header that tells it."""
        if samples * self._channels * self._bits // 8 % 2:
            self.write(memoryview(b"\0"))
        try:
            self._file.seek(0)
            self.write(memoryview(self._build_header(samples)))
            self._file.close()
        except (OSError, ValueError) as error:
            raise explain_os_error(error, self._place.path) from error

    def abort(self) -> None:
        """Close the file."""
        with self._lock, contextlib.suppress(OSError):
            self._file.close()


class FFmpegSink:
    """Sends samples to an ffmpeg that encodes them into the part file."""

    def __init__(
        self,
        place: PartFile,
        sample_rate: int,
        channels: int,
        format: OutputFormat,
        tags: Mapping[str, str],
        cover_from: Path | None,
    ) -> None:
        """Start ffmpeg; tags and cover are laid ready for it in a temporary folder."""
        self._place = place
        self._format = format
        self._lock = threading.Lock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        raw = ("-f", name_raw_format(format), "-ar", str(sample_rate), "-ac", str(channels))
        command = ["-y", *raw, "-i", "pipe:0"]
        cover = None if cover_from is None else read_cover(cover_from)
        files: dict[str, bytes] = {}
        mapping = ["-map", "0:a", "-map_metadata", "-1"]
        if cover is not None and format.name in _IN_OGG:
            tags = {**tags, "metadata_block_picture": encode_picture(cover)}
        if tags:
            files["tags"] = build_metadata(tags).encode()
            mapping = ["-map", "0:a", "-map_metadata", "1:g"]
        if cover is not None and format.name not in _IN_OGG:
            files["cover"] = cover.data
            comment = "comment=Cover (front)"  # how ffmpeg tells the picture's kind to ID3 and FLAC
            mapping += ["-map", f"{len(files)}:v", "-c:v", "copy", "-metadata:s:v", comment]
            mapping += ["-disposition:v:0", "attached_pic", "-flags:v", "+bitexact"]
        try:
            for name, path in self._lay_ready(files).items():
                kind = "ffmetadata" if name == "tags" else f"{cover.kind if cover else ''}_pipe"
                command += ["-f", kind, "-i", name_file(path)]
            encoder = build_encoder(format, sample_rate, channels)
            self._process = Process(
                [*command, *mapping, *encoder, name_file(place.part)], feed=True
            )
        except BaseException:
            self._remove_folder()
            raise

    def _lay_ready(self, files: Mapping[str, bytes]) -> dict[str, Path]:
        """Write the inputs that are not sound; nothing is made when there are none."""
        if not files:
            return {}
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="stemsplit-")
            paths = {name: Path(self._folder.name, name) for name in files}
            for name, data in files.items():
                paths[name].write_bytes(data)
        except OSError as error:
            raise explain_os_error(error, Path(tempfile.gettempdir())) from error
        return paths

    def write(self, frames: memoryview) -> None:
        """Append samples; waits while ffmpeg is busy with earlier ones."""
        try:
            with self._lock:
                self._process.send(frames)
        except (OSError, ValueError) as error:  # ValueError: aborted meanwhile
            raise self._explain(self._process.wait()) from error

    def finish(self, samples: int) -> None:
        """Let ffmpeg complete its file."""
        with self._lock:
            self._process.close_pipes()
        status = self._process.wait()
        if status != 0 or self._process.complaints.mention(_FULL):
            raise self._explain(status)
        self._remove_folder()

    def abort(self) -> None:
        """End ffmpeg."""
        self._process.end()  # A write that waits for it fails now, and frees the lock.
        with self._lock:
            self._process.close_pipes()
        self._remove_folder()

    def _remove_folder(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _explain(self, status: int) -> StemsplitError:
        name = repr(str(self._place.path))
        return explain_failure(self._process, status, name, self._format.name)


def explain_failure(process: Process, status: int, name: str, format: str) -> StemsplitError:
    """Return the error for an ffmpeg that did not write its file.

    Args:
        process: It, at its end.
        status: With which it ended.
        name: The file that it was to write, quoted.
        format: What it was to write, in a word.
    """
    complaints = process.complaints
    if complaints.mention(_FULL):
        return DiskFullError(
            f"the disk is full: {name} could not be written",
            help="free some space, or choose a folder on another disk.",
        )
    if complaints.mention("Unknown encoder"):
        return EncodeError(
            f"{name}: this ffmpeg cannot write {format}: {complaints.quote()}",
            help=f"choose wav or flac, or set {VARIABLE} to an ffmpeg that has the encoder.",
        )
    if complaints.mention("Input/output error") or complaints.mention("File too large"):
        return OutputError(
            f"{name} could not be written; ffmpeg says: {complaints.quote()}",
            help="check the disk, or choose a folder on another one.",
        )
    reason = complaints.quote() or f"nothing, and ends with status {status}"
    return EncodeError(
        f"{name} could not be encoded; ffmpeg says: {reason}",
        help="choose another format, as in --format wav.",
    )


def quantize(block: np.ndarray[Any, np.dtype[np.float32]], bits: int) -> memoryview:
    """Return interleaved samples, little-endian: integers of 16 or 24 bits, or 32-bit floats.

    Integers are rounded to the nearest (half to even) and held within their range.

    Args:
        block: Shape (channels, n).
        bits: 16, 24 or 32.
    """
    channels, count = block.shape
    if bits == 32:
        return _view(np.array(block.T, "<f4", order="C"))
    scale = 2 ** (bits - 1)
    steps = np.rint(block * np.float32(scale))
    np.clip(steps, -scale, scale - 1, out=steps)
    frames = np.empty((count, channels), "<i2" if bits == 16 else "<i4")
    frames[...] = steps.T
    if bits == 16:
        return _view(frames)
    wide = frames.view(np.uint8).reshape(-1, 4)
    packed = np.empty((wide.shape[0], 3), np.uint8)
    for byte in range(3):
        packed[:, byte] = wide[:, byte]
    return _view(packed)


def _view(array: np.ndarray[Any, np.dtype[Any]]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
