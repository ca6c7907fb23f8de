"""Blocks of samples into a sound file that is there complete or not at all.

Integer samples are rounded here, not by the encoder, so that a file is the same whoever writes it.
WAV is written here, too: it costs a third of the processor time of a pipe to ffmpeg. Everything
else is ffmpeg's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final

import numpy as np

from stemsplit.audio.formats import OutputFormat
from stemsplit.audio.metadata import keep_tags
from stemsplit.audio.part_file import PartFile
from stemsplit.audio.sinks import FFmpegSink, Sink, WavSink, quantize
from stemsplit.errors import CancelledError, EncodeError, StemsplitError, UsageError

Block = np.ndarray[Any, np.dtype[np.float32]]

_MIN_RATE: Final = 1_000
_MAX_RATE: Final = 768_000
_NO_TAGS: Final[Mapping[str, str]] = MappingProxyType({})


class StemWriter:
    """Writes one stem, block by block; a context manager that leaves no half-written file.

    The same samples give the same bytes, with the same ffmpeg. Integer formats round to the nearest
    step and hold what is beyond full scale at full scale. Decoded again, wav and flac have exactly
    the samples that were written, and the lossy formats exactly their number; mp3 and m4a at a rate
    that they do not have, and opus at any but 48 kHz, are converted (`stemsplit.audio.codec`).

    Attributes:
        path: Where the file will be.
        peak: Highest absolute sample so far, linear.
        clipped: Samples so far beyond full scale (absolute value above 1), which integer formats
            hold there and players of lossy formats clip; always 0 for 32-bit floats.
        samples: Number of samples so far, of each channel.
    """

    def __init__(
        self,
        path: Path,
        *,
        sample_rate: int,
        channels: int,
        format: OutputFormat,
        tags: Mapping[str, str] = _NO_TAGS,
        cover_from: Path | None = None,
    ) -> None:
        """Open `NAME.part` beside the place of the file, making folders as needed.

        Args:
            path: Where the finished file belongs; one that is there is replaced at the end.
            sample_rate: Hz.
            channels: 1 or 2.
            format: From `parse_format`.
            tags: By ffmpeg's names (title, artist, album ...); those about the source's own
                encoding are left out, and so are those that wav has no place for.
            cover_from: A sound file whose attached picture is to be copied, if it has one and the
                format can hold it (all but wav).

        Raises:
            UsageError: A rate or a number of channels that cannot be.
            OutputError: The place cannot be written to.
            DiskFullError: The disk is full.
            EncodeError: ffmpeg does not accept it.
            FFmpegMissingError: There is no ffmpeg, and the format needs it.
        """
        if channels not in (1, 2):
            raise UsageError(f"a stem cannot have {channels} channels", help="give 1 or 2.")
        if not _MIN_RATE <= sample_rate <= _MAX_RATE:
            raise UsageError(
                f"a stem cannot have a sample rate of {sample_rate} Hz",
                help=f"give {_MIN_RATE} to {_MAX_RATE}.",
            )
        self.path = Path(path)
        self.peak = 0.0
        self.clipped = 0
        self.samples = 0
        self._channels = channels
        self._sample_rate = sample_rate
        self._bits = format.bits or 32
        self._holds_any_level = format.bits == 32
        self._is_open = True
        self._place = PartFile(self.path)
        self._sink: Sink
        kept = keep_tags(tags)
        try:
            if format.name == "wav":
                self._sink = WavSink(self._place, sample_rate, channels, self._bits, kept)
            else:
                self._sink = FFmpegSink(
                    self._place, sample_rate, channels, format, kept, cover_from
                )
        except BaseException:
            self._place.discard()
            raise

    def write(self, block: Block) -> None:
        """Append samples. Shape: (channels, n), n from 0 upwards.

        After an error the part file is gone and the writer closed.

        Raises:
            UsageError: Another shape, or the writer is closed.
            EncodeError: Samples that are not numbers, or ffmpeg gave up.
            DiskFullError: The disk is full.
            OutputError: The disk does not take them.
            CancelledError: Another thread aborted it.
        """
        self._check_open()
        with self._abort_on_error():
            self._append(block)

    def _append(self, block: Block) -> None:
        if block.ndim != 2 or block.shape[0] != self._channels:
            raise UsageError(
                f"a block of shape {block.shape} does not fit into {self._channels} channels",
                help=f"give arrays of shape ({self._channels}, n).",
            )
        if not block.shape[1]:
            return
        with np.errstate(invalid="ignore"):
            peak = max(float(block.max()), -float(block.min()))
        if not peak < float("inf"):
            at_s = self.samples / self._sample_rate
            raise EncodeError(
                f"{str(self.path)!r}: a sample after {at_s:.2f} s is not a number",
                help="the model gave NaN or infinity; try --precision fp32.",
            )
        self.peak = max(self.peak, peak)
        if peak > 1.0 and not self._holds_any_level:
            self.clipped += int(np.count_nonzero(np.abs(block) > 1.0))
        self._sink.write(quantize(block, self._bits))
        self.samples += block.shape[1]

    def close(self) -> None:
        """Complete the file, bring it safely to the disk and give it its name.

        Raises:
            UsageError: The writer was aborted.
            EncodeError: ffmpeg gave up.
            DiskFullError: The disk is full.
            OutputError: The file cannot be renamed.
        """
        self._check_open()
        with self._abort_on_error():
            self._sink.finish(self.samples)
            self._place.commit()
        self._is_open = False

    @contextlib.contextmanager
    def _abort_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if not self._is_open and isinstance(error, StemsplitError):
                raise CancelledError(
                    f"writing {str(self.path)!r} was stopped", help="run again to write it."
                ) from error
            self.abort()
            raise

    def abort(self) -> None:
        """Stop at once and remove what was written; nothing happens on a closed writer.

        From another thread, too: a write that is under way there ends with `CancelledError`.
        """
        if self._is_open:
            self._is_open = False
            self._sink.abort()
            self._place.discard()

    def _check_open(self) -> None:
        if not self._is_open:
            raise UsageError(
                f"the writer of {str(self.path)!r} is closed", help="open another StemWriter."
            )

    def __enter__(self) -> StemWriter:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file, or remove it after an exception."""
        if kind is not None:
            self.abort()
        elif self._is_open:
            self.close()
