"""The files of a song's stems while they are being written: levels, clipping, one writer each."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stemsplit.audio import OutputFormat, StemWriter
from stemsplit.errors import CancelledError
from stemsplit.separation.backlog import Backlog
from stemsplit.separation.events import StemBlock
from stemsplit.separation.levels import ClipMode, LevelMeter, choose_gain
from stemsplit.separation.staging import refuse_os_errors

BACKLOG_BLOCKS = 2
SPOOL_BLOCK_SAMPLES = 65536
_STOP_S = 5.0

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Sound:
    """What all outputs of a song have in common.

    Attributes:
        sample_rate: Hz.
        channels: 1 or 2.
        format: How they are written.
        clip: What is done beyond full scale.
    """

    sample_rate: int
    channels: int
    format: OutputFormat
    clip: ClipMode


class StemFile(ABC):
    """One stem on its way into a file.

    Attributes:
        path: The file.
        meter: Its levels so far.
    """

    def __init__(self, path: Path, sound: Sound) -> None:
        """Start at silence."""
        self.path = path
        self.meter = LevelMeter(sound.sample_rate, sound.channels)

    @abstractmethod
    def feed(self, block: Samples) -> None:
        """Take the next samples. Shape: (C, n)."""

    @abstractmethod
    def finish(self, gain: float) -> None:
        """Make the file whole, its samples multiplied by the gain."""

    @abstractmethod
    def abort(self) -> None:
        """Stop at once; the file need not be there. Safe from another thread, and twice."""


class DirectFile(StemFile):
    """Samples go to the encoder as they come, limited to full scale where "clamp" says so."""

    def __init__(self, path: Path, sound: Sound, open_writer: Callable[[], StemWriter]) -> None:
        super().__init__(path, sound)
        self._is_clamped = sound.clip == "clamp"
        self._writer = open_writer()

    def feed(self, block: Samples) -> None:
        """Measure, limit, encode."""
        self.meter.feed(block)
        self._writer.write(block.clip(-1.0, 1.0) if self._is_clamped else block)

    def finish(self, gain: float) -> None:
        """Close the encoder; the gain of a stream that is written already is 1."""
        self._writer.close()

    def abort(self) -> None:
        """Kill the encoder."""
        self._writer.abort()


class SpooledFile(StemFile):
    """Samples wait on disk as float32, 4 bytes each, until the song's common gain is known."""

    def __init__(self, path: Path, sound: Sound, open_writer: Callable[[], StemWriter]) -> None:
        super().__init__(path, sound)
        self._channels = sound.channels
        self._open_writer = open_writer
        self._spool_path = path.with_name("spool.f32")
        self._stopping = threading.Event()
        with refuse_os_errors(self._spool_path):
            self._spool = self._spool_path.open("w+b")

    def feed(self, block: Samples) -> None:
        """Measure and put aside."""
        self.meter.feed(block)
        with refuse_os_errors(self._spool_path):
            self._spool.write(np.ascontiguousarray(block.T).tobytes())

    def finish(self, gain: float) -> None:
        """Encode what was put aside."""
        with self._open_writer() as writer:
            for block in self._read():
                if self._stopping.is_set():
                    raise CancelledError("stopped while writing", help="run again to finish.")
                writer.write(block if gain == 1.0 else block * np.float32(gain))
        self.abort()

    def abort(self) -> None:
        """Drop what was put aside."""
        self._stopping.set()
        self._spool.close()
        self._spool_path.unlink(missing_ok=True)

    def _read(self) -> Iterator[Samples]:
        self._spool.seek(0)
        frame_bytes = 4 * self._channels
        while piece := self._spool.read(SPOOL_BLOCK_SAMPLES * frame_bytes):
            yield np.ascontiguousarray(np.frombuffer(piece, "<f4").reshape(-1, self._channels).T)


class StemFiles:
    """All stems of a song: each is measured and encoded in a thread of its own.

    Attributes:
        meters: Stem -> levels so far.
    """

    def __init__(
        self, paths: Mapping[str, Path], sound: Sound, open_writer: Callable[[str], StemWriter]
    ) -> None:
        """Open a file for every stem.

        Args:
            paths: Stem -> file, in a folder of its own.
            sound: What they have in common.
            open_writer: Opens the writer of a stem.
        """
        self._is_rescaled = sound.clip == "rescale"
        kind = SpooledFile if self._is_rescaled else DirectFile
        self._files: dict[str, StemFile] = {}
        self._backlogs: dict[str, Backlog[Samples]] = {}
        try:
            for stem, path in paths.items():
                file = kind(path, sound, partial(open_writer, stem))
                self._files[stem] = file
                self._backlogs[stem] = Backlog(file.feed, depth=BACKLOG_BLOCKS)
        except BaseException:
            self.abort()
            raise

    @property
    def meters(self) -> dict[str, LevelMeter]:
        """Stem -> levels so far."""
        return {stem: file.meter for stem, file in self._files.items()}

    def feed(self, block: StemBlock) -> None:
        """Hand over the next samples of every stem; waits for encoders that are behind.

        Raises:
            EncodeError: An encoder failed on an earlier block.
            OutputError: A file could not be written, or the disk is full.
        """
        for stem, backlog in self._backlogs.items():
            backlog.put(block.stems[stem].numpy())

    def finish(self) -> float:
        """Make all files whole.

        Returns:
            The one gain that all stems were multiplied by: 1, unless "rescale" found a peak above.

        Raises:
            EncodeError: As in `feed`.
            OutputError: As in `feed`.
        """
        for backlog in self._backlogs.values():
            backlog.join()
        gain = 1.0
        if self._is_rescaled:
            gain = choose_gain(max(meter.peak for meter in self.meters.values()))
        with ThreadPoolExecutor(len(self._files)) as pool:
            finished = [pool.submit(file.finish, gain) for file in self._files.values()]
            try:
                for future in finished:
                    future.result()
            except BaseException:
                self._abort_files()
                raise
        return gain

    def abort(self) -> None:
        """Stop all threads and encoders at once."""
        for backlog in self._backlogs.values():
            backlog.stop()
        self._abort_files()
        for backlog in self._backlogs.values():
            backlog.wait(_STOP_S)

    def _abort_files(self) -> None:
        for file in self._files.values():
            file.abort()
