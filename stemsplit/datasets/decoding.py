"""One track's recordings as files that can be searched: the same rate, channels and length."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from stemsplit.audio import OutputFormat, StemWriter, decode_blocks, probe
from stemsplit.datasets.layouts import MIXTURE
from stemsplit.datasets.track import AudioFile, Track
from stemsplit.errors import CancelledError, DatasetError

# An encoder's frame more or less, as AAC leaves behind, is nothing to talk about.
_TOLERATED_SAMPLES: Final = 2048
_DAMAGE_S: Final = 0.5
_BLOCK_SAMPLES: Final = 1 << 16


@dataclass(frozen=True)
class Decoding:
    """How recordings are written.

    Attributes:
        format: wav or flac.
        sample_rate: Hz; None for that of the mixture, or of the first stem where there is none.
    """

    format: OutputFormat
    sample_rate: int | None = None


@dataclass(frozen=True)
class DecodedTrack:
    """What was written.

    Attributes:
        samples: Of every file.
        sample_rate: Hz, of every file.
        files: Stem (or "mixture") -> its file's name in the folder.
        clipped: Samples that were beyond full scale and are held there, all files together.
        notes: What there is to know: lengths and rates that differed, damage.
    """

    samples: int
    sample_rate: int
    files: Mapping[str, str]
    clipped: int
    notes: tuple[str, ...]


@dataclass
class _Written:
    """One file: how long its recording was, and what there is to say of it."""

    samples: int
    clipped: int
    warnings: list[str]


class TrackDecoder:
    """Decodes the recordings of one track, one after the other, into a folder."""

    def __init__(
        self,
        track: Track,
        folder: Path,
        decoding: Decoding,
        *,
        cancelled: threading.Event,
    ) -> None:
        """Look at the files' headers.

        Args:
            track: The track.
            folder: Where the files go.
            decoding: How they are written.
            cancelled: Stops it at the next block.

        Raises:
            DecodeError: A file that is not there, or holds no sound.
            DatasetError: A .stem.mp4 without all of its streams.
        """
        mixture = {} if track.mixture is None else {MIXTURE: track.mixture}
        self._files: dict[str, AudioFile] = {**mixture, **track.stems}
        self._folder = folder
        self._format = decoding.format
        self._cancelled = cancelled
        self._notes: list[str] = []
        streams = {}
        for name, file in self._files.items():
            info = probe(file.path)
            if file.stream >= len(info.streams):
                raise DatasetError(
                    f"{str(file.path)!r} has {len(info.streams)} audio streams, and no stream "
                    f"{file.stream} for {name}",
                    help="MUSDB18's have five: mixture, drums, bass, other, vocals. Get it again.",
                )
            streams[name] = info.streams[file.stream]
        rates = {stream.sample_rate: name for name, stream in streams.items()}
        self.sample_rate = decoding.sample_rate or next(iter(streams.values())).sample_rate
        if len(rates) > 1:
            self._notes.append(
                f"its files have {' and '.join(map(str, sorted(rates)))} Hz: all are brought to "
                f"{self.sample_rate} Hz"
            )
        self._channels = max(1, min(2, max(stream.channels for stream in streams.values())))

    def run(self) -> DecodedTrack:
        """Decode everything; all files are as long as the mixture, or else as the longest stem.

        Raises:
            DecodeError: A file cannot be decoded.
            DatasetError: A damaged file is shorter than the rest.
            OutputError: The folder cannot be written to.
            CancelledError: It was stopped.
        """
        length: int | None = None
        written: dict[str, _Written] = {}
        for name in self._files:
            written[name] = self._decode(name, length)
            if name == MIXTURE:
                length = written[name].samples
        if length is None:
            length = max(one.samples for one in written.values())
            for name, one in written.items():
                if one.samples < length:
                    self._decode(name, length)
        self._compare(written, length)
        names = {name: self._name(name) for name in self._files}
        clipped = sum(one.clipped for one in written.values())
        return DecodedTrack(length, self.sample_rate, names, clipped, tuple(self._notes))

    def _name(self, stem: str) -> str:
        return f"{stem}{self._format.suffix}"

    def _decode(self, name: str, length: int | None) -> _Written:
        """Write one file of `length` samples, or as long as it is."""
        file = self._files[name]
        warnings: list[str] = []
        total = 0
        path = self._folder / self._name(name)
        blocks = decode_blocks(
            file.path,
            stream=file.stream,
            sample_rate=self.sample_rate,
            channels=self._channels,
            block_samples=_BLOCK_SAMPLES,
            on_warning=warnings.append,
        )
        writer = StemWriter(
            path, sample_rate=self.sample_rate, channels=self._channels, format=self._format
        )
        with blocks, writer:
            for block in blocks:
                self._check_stopped()
                room = block.shape[1] if length is None else max(0, length - total)
                writer.write(block[:, :room])
                total += block.shape[1]
            while length is not None and writer.samples < length:
                count = min(_BLOCK_SAMPLES, length - writer.samples)
                writer.write(np.zeros((self._channels, count), np.float32))
        return _Written(total, writer.clipped, warnings)

    def _check_stopped(self) -> None:
        if self._cancelled.is_set():
            raise CancelledError("stopped while decoding", help="run it again to go on.")

    def _compare(self, written: Mapping[str, _Written], length: int) -> None:
        """Note lengths that differ; refuse a file that is short because it is damaged."""
        rate = self.sample_rate
        longest = max(one.samples for one in written.values())
        for name, one in written.items():
            path = self._files[name].path
            # A container's length is that of its longest stream.
            missing = max(longest, (probe(path).duration_s or 0) * rate) - one.samples
            if one.warnings and missing > _DAMAGE_S * rate:
                raise DatasetError(
                    f"{name} is {missing / rate:.1f} s too short: {one.warnings[0]}",
                    help="get the file again, and run the same command.",
                )
            self._notes.extend(one.warnings)
            if abs(one.samples - length) > _TOLERATED_SAMPLES:
                word = "cut" if one.samples > length else "continued with zeros"
                self._notes.append(
                    f"{name}: is {one.samples / rate:.2f} s long and was {word} to the "
                    f"{length / rate:.2f} s of the track"
                )
