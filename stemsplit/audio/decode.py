"""Sound from any file, in blocks, in bounded memory.

ffmpeg decodes to 32-bit floats at the stream's own layout and sends them through a pipe; a slow
reader makes it wait. Start, length, down-mix and checks are applied here, to the sample.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, NoReturn

import numpy as np

from stemsplit.audio.downmix import build_downmix
from stemsplit.audio.ffmpeg import LOCAL_ONLY, Process, name_file
from stemsplit.audio.ogg import lacks_end
from stemsplit.audio.probe import AudioInfo, probe
from stemsplit.audio.wav import Header, parse_header
from stemsplit.errors import DecodeError, EmptyAudioError, UsageError

Block = np.ndarray[Any, np.dtype[np.float32]]

# Beyond this a number is no sample: a file of other data, or a scale gone wrong.
MAX_AMPLITUDE: Final = 1e6

_SAMPLE: Final = np.dtype("<f4")
_MIN_RATE: Final = 1_000
_MAX_RATE: Final = 768_000

# In these containers ffmpeg finds any whole second exactly (tests/audio/test_seek.py holds it to
# that); in others (mp4, matroska, wma, adts) it lands samples away, so they are decoded from the
# beginning.
_SEEKABLE: Final = frozenset(("wav", "w64", "aiff", "flac", "mp3", "ogg"))
# What a decoder is given before the first wanted sample, to fill its overlap and its bit reservoir.
_PREROLL_S: Final = 3
# A container's announced length may be off by a few frames without anything being lost.
_SHORTFALL_S: Final = 0.25


@dataclass(frozen=True)
class _Request:
    """What `decode_blocks` was asked for, checked."""

    stream: int
    start_s: float
    duration_s: float | None
    sample_rate: int | None
    channels: int | None
    block_samples: int


def decode_blocks(
    path: Path,
    *,
    stream: int = 0,
    start_s: float = 0.0,
    duration_s: float | None = None,
    sample_rate: int | None = None,
    channels: int | None = None,
    block_samples: int = 65536,
    on_warning: Callable[[str], None] | None = None,
) -> Decoder:
    """Decode a file block by block, its priming and padding removed as ffmpeg knows them.

    Integer samples of b bits are divided by 2^(b-1); floats keep their value, also beyond 1. Where
    the file is damaged, all that can be decoded is delivered, and a warning says what is missing.

    Args:
        path: Any file that ffmpeg can read, sound or video. The name is only ever a file's name,
            and no file makes ffmpeg open anything but files.
        stream: Which of its audio streams, from 0.
        start_s: Where to begin, in seconds, to the nearest sample.
        duration_s: How much to take, in seconds, to the nearest sample; None for all.
        sample_rate: Convert to this rate, in Hz; the stream's own when None.
        channels: 1 or 2. None leaves mono mono and makes everything else stereo. More than two are
            mixed as ITU-R BS.775 says, the centre in both sides at -3 dB, the LFE left out, nothing
            scaled down (`stemsplit.audio.downmix`); unknown layouts by their mean.
        block_samples: Length of every block but the last.
        on_warning: Called with one sentence for each thing that the person should know, before the
            iteration ends; never for a sound file.

    Returns:
        An iterator of float32 blocks of shape (channels, n), to be used with `with`.

    Raises:
        DecodeError: The file cannot be read as audio.
        EmptyAudioError: There are no samples.
        UsageError: A stream that the file lacks, or a value out of range.
        FFmpegMissingError: There is no ffmpeg.
    """
    request = _Request(stream, start_s, duration_s, sample_rate, channels, block_samples)
    _check_request(request)
    info = probe(Path(path))
    if stream >= len(info.streams):
        count = len(info.streams)
        streams = "one audio stream, number 0" if count == 1 else f"audio streams 0 to {count - 1}"
        raise UsageError(
            f"{str(path)!r} has no audio stream {stream}",
            help=f"it has {streams}: choose from these.",
        )
    return Decoder(info, request, on_warning)


def _check_request(request: _Request) -> None:
    def refuse(what: str, value: object, help: str) -> NoReturn:
        raise UsageError(f"{what} cannot be {value!r}", help=help)

    if request.stream < 0:
        refuse("the audio stream", request.stream, "streams are counted from 0.")
    if not 0 <= request.start_s < math.inf:
        refuse("the start", request.start_s, "give seconds from 0 upwards.")
    if request.duration_s is not None and not 0 < request.duration_s < math.inf:
        refuse("the duration", request.duration_s, "give seconds above 0.")
    rate = request.sample_rate
    if rate is not None and not _MIN_RATE <= rate <= _MAX_RATE:
        refuse("the sample rate", rate, f"give {_MIN_RATE} to {_MAX_RATE} Hz.")
    if request.channels not in (None, 1, 2):
        refuse("the number of channels", request.channels, "give 1 for mono or 2 for stereo.")
    if request.block_samples < 1:
        refuse("the length of a block", request.block_samples, "give at least 1 sample.")


class Decoder:
    """The blocks of one audio stream: an iterator that runs once, and a context manager.

    Attributes:
        sample_rate: Hz, of what it yields.
        channels: Of what it yields: 1 or 2.
        source_channels: Of the stream itself.
    """

    def __init__(
        self, info: AudioInfo, request: _Request, on_warning: Callable[[str], None] | None
    ) -> None:
        """Start ffmpeg and read as far as the first sample; made by `decode_blocks`."""
        self._info = info
        self._request = request
        self._on_warning = on_warning
        self._lock = threading.RLock()
        self._closed = False
        self._skipped_s = _plan_seek(info, request.start_s)
        self._process = Process(_build_command(info, request, self._skipped_s), fetch=True)
        try:
            header = self._read_header()
        except BaseException:
            self.close()
            raise
        self.sample_rate = header.sample_rate
        self.source_channels = header.channels
        self.channels = request.channels or min(2, header.channels)
        self._gains = build_downmix(header.channels, header.channel_mask, self.channels)
        self._read_samples = self._skipped_s * self.sample_rate
        self._begin = round(request.start_s * self.sample_rate)
        self._end: float = math.inf
        if request.duration_s is not None:
            self._end = round((request.start_s + request.duration_s) * self.sample_rate)
        self._replaced = 0
        self._blocks = self._decode()

    def __iter__(self) -> Decoder:
        """Return itself."""
        return self

    def __next__(self) -> Block:
        """Return the next block. Shape: (channels, n).

        Raises:
            DecodeError: Nothing could be decoded, or numbers came that are no samples.
            EmptyAudioError: There are no samples.
        """
        with self._lock:
            return next(self._blocks)

    def __enter__(self) -> Decoder:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()

    def close(self) -> None:
        """End ffmpeg at once and the iteration with it; from any thread, any number of times."""
        self._closed = True
        self._process.end()
        with self._lock:
            self._process.close_pipes()

    def _read_header(self) -> Header:
        pipe = self._process.stdout
        header = parse_header(lambda size: _read_exactly(pipe, size))
        if header is None or header.channels < 1 or header.sample_rate < 1:
            self._refuse_nothing()
        return header

    def _decode(self) -> Iterator[Block]:
        """Yield what was asked for; at the end of the file, say what is wrong with it."""
        frame_bytes = self.source_channels * _SAMPLE.itemsize
        buffer = bytearray(self._request.block_samples * frame_bytes)
        while self._read_samples < self._end and not self._closed:
            size = _read_into(self._process.stdout, buffer)
            if self._closed:
                return
            if size < frame_bytes:
                self._check_end()
                break
            count = size // frame_bytes
            samples = np.frombuffer(buffer, _SAMPLE, count * self.source_channels)
            first = self._read_samples
            self._read_samples += count
            wanted = slice(max(0, self._begin - first), int(min(count, self._end - first)))
            if wanted.start < wanted.stop:
                frames = samples.reshape(count, self.source_channels)[wanted]
                block = np.array(frames.T, np.float32, order="C")
                yield self._finish(block, first + wanted.start)
        self.close()
        if self._replaced:
            self._warn(
                f"{self._replaced} samples of {self._name} are not numbers (NaN or infinite): "
                "they were replaced by silence"
            )

    def _finish(self, block: Block, position: int) -> Block:
        """Check a block and mix it down. Shape: (source_channels, n) -> (channels, n)."""
        with np.errstate(invalid="ignore"):
            is_plain = block.min() >= -MAX_AMPLITUDE and block.max() <= MAX_AMPLITUDE
        if not is_plain:
            finite = np.isfinite(block)
            self._replaced += int(np.count_nonzero(~finite))
            block[~finite] = 0.0
            self._check_amplitude(block, position)
        return block if self._gains is None else self._gains @ block

    def _check_amplitude(self, block: Block, position: int) -> None:
        amplitude = np.abs(block).max(axis=0)
        if (worst := amplitude.max()) > MAX_AMPLITUDE:
            at_s = (position + int(amplitude.argmax())) / self.sample_rate
            self.close()
            raise DecodeError(
                f"{self._name} holds a sample of {worst:.3g} at {at_s:.2f} s; full scale is 1",
                help="it is other data, or was scaled wrongly; export it again as audio.",
            )

    def _check_end(self) -> None:
        """Judge a file whose end has come: complete, damaged, or without a single sample."""
        status = self._process.wait()
        if self._read_samples == 0:
            self._refuse_nothing()
        damage = self._describe_damage(status)
        if self._read_samples > self._begin:
            if damage is not None:
                self._warn(damage)
            return
        start_s = self._request.start_s
        if damage is not None:
            raise DecodeError(
                f"{damage}; nothing came from {start_s:g} s on",
                help="get the file again, or begin earlier.",
            )
        length_s = self._info.duration_s or self._read_samples / self.sample_rate
        raise EmptyAudioError(
            f"{self._name} has no samples from {start_s:g} s on",
            help=f"begin before its end: it is {length_s:.2f} s long.",
        )

    def _describe_damage(self, status: int) -> str | None:
        """Say what is wrong with a file of which something was decoded; None if nothing is."""
        complaints = self._process.complaints
        announced_s = _find_announced(self._info)
        decoded_s = self._read_samples / self.sample_rate
        is_short = announced_s is not None and decoded_s < announced_s - _SHORTFALL_S
        if not (is_short or complaints.errors or status):
            return self._describe_missing_end(decoded_s)
        said = f" (ffmpeg: {complaints.first})" if complaints.errors else ""
        if announced_s is None:
            return f"{self._name} is damaged: decoded {decoded_s:.1f} s{said}"
        if is_short:
            lengths = f"decoded {decoded_s:.1f} s of {announced_s:.1f} s announced"
            return f"{self._name} is damaged: {lengths}{said}"
        whole = f"its whole length was decoded: {decoded_s:.1f} s"
        return f"ffmpeg found faults in {self._name}, though {whole}{said}"

    def _describe_missing_end(self, decoded_s: float) -> str | None:
        if self._info.container != "ogg" or not lacks_end(self._info.path):
            return None
        return f"{self._name} has no end: decoded {decoded_s:.1f} s, and more may have been cut off"

    def _refuse_nothing(self) -> NoReturn:
        """Say why there is no sample at all."""
        status = self._process.wait()
        complaints = self._process.complaints
        announced_s = _find_announced(self._info)
        if complaints.errors or status:
            raise DecodeError(
                f"{self._name} could not be decoded; ffmpeg says: "
                f"{complaints.quote() or f'nothing, and ends with status {status}'}",
                help="if other programs play it, convert it there to wav; else get it again.",
            )
        if announced_s and not self._skipped_s:
            raise DecodeError(
                f"{self._name} could not be decoded: nothing came of {announced_s:.1f} s announced",
                help="the file is damaged; get it again.",
            )
        raise EmptyAudioError(f"{self._name} has no samples", help="export or record it again.")

    @property
    def _name(self) -> str:
        return repr(str(self._info.path))

    def _warn(self, message: str) -> None:
        if self._on_warning is not None:
            self._on_warning(message)


def _plan_seek(info: AudioInfo, start_s: float) -> int:
    """Return the whole second to make ffmpeg begin at; 0 where it would not find it exactly."""
    is_plain = len(info.streams) == 1 and not info.has_video
    if not is_plain or info.container not in _SEEKABLE:
        return 0
    return max(0, math.floor(start_s) - _PREROLL_S)


def _build_command(info: AudioInfo, request: _Request, seek_s: int) -> list[str]:
    seek = ("-ss", str(seek_s)) if seek_s else ()
    rate = ("-ar", str(request.sample_rate)) if request.sample_rate else ()
    return [
        *(*LOCAL_ONLY, *seek, "-i", name_file(info.path)),
        *(
            "-map",
            f"0:a:{request.stream}",
            *rate,
            "-c:a",
            "pcm_f32le",
            "-fflags",
            "+bitexact",
            "-f",
            "wav",
            "pipe:1",
        ),
    ]


def _find_announced(info: AudioInfo) -> float | None:
    """Return the length that the one stream should have, where the container knows it."""
    is_alone = len(info.streams) == 1 and not info.has_video
    return info.duration_s if is_alone and not info.is_estimated else None


def _read_into(pipe: IO[bytes], buffer: bytearray) -> int:
    """Fill a buffer, all but at the end of the stream; return how many bytes came."""
    view = memoryview(buffer)
    size = 0
    while size < len(buffer):
        got: int = pipe.readinto(view[size:])  # type: ignore[attr-defined]  # raw: a FileIO
        if not got:
            break
        size += got
    return size


def _read_exactly(pipe: IO[bytes], size: int) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: _read_into(pipe, buffer)])
