"""RIFF/WAVE headers: the ones that ffmpeg sends through a pipe, and the ones stemsplit writes.

Layout by Microsoft's "Multiple channel audio data and WAVE files" and EBU Tech 3306 (RF64).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stemsplit.audio.readable import open_readable

PCM: Final = 1
FLOAT: Final = 3
_EXTENSIBLE: Final = 0xFFFE
_UNKNOWN: Final = 0xFFFFFFFF
_MAX_CHUNKS: Final = 1000
_MAX_FORMAT_BYTES: Final = 1 << 16
_DS64_BYTES: Final = 28
_MAX_RIFF_BYTES: Final = 0xFFFFFFFE

# INFO chunks by the name that ffmpeg gives the tag.
_INFO: Final = {
    "title": b"INAM",
    "artist": b"IART",
    "album": b"IPRD",
    "track": b"IPRT",
    "date": b"ICRD",
    "genre": b"IGNR",
    "comment": b"ICMT",
    "copyright": b"ICOP",
}


@dataclass(frozen=True)
class Header:
    """What stands before the samples.

    Attributes:
        sample_rate: Hz.
        channels: Samples in a frame.
        channel_mask: Loudspeakers by bit, lowest first, as in dwChannelMask; 0 where not said.
        block_bytes: Size of one sample of every channel.
        data_bytes: Announced size of the samples; None where the writer did not know.
        coding: How samples are written: `PCM`, `FLOAT`, or another of Microsoft's numbers.
    """

    sample_rate: int
    channels: int
    channel_mask: int
    block_bytes: int
    data_bytes: int | None
    coding: int


def parse_header(read: Callable[[int], bytes]) -> Header | None:
    """Read up to the first sample.

    Args:
        read: Returns exactly as many bytes as asked for, fewer only at the end.

    Returns:
        The header, or None where this is no complete RIFF/WAVE header.
    """
    start = read(12)
    if start[:4] != b"RIFF" or start[8:] != b"WAVE":
        return None
    described: tuple[int, ...] | None = None
    channel_mask = coding = 0
    for _ in range(_MAX_CHUNKS):
        chunk = read(8)
        if len(chunk) < 8:
            return None
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            if described is None:
                return None
            _, channels, sample_rate, _, block_bytes = described
            known = None if size in (0, _UNKNOWN) else size
            return Header(sample_rate, channels, channel_mask, block_bytes, known, coding)
        if size > _MAX_FORMAT_BYTES and name == b"fmt ":
            return None
        body = _read_chunk(read, size + size % 2)
        if name == b"fmt " and len(body) >= 16:
            described = struct.unpack("<HHIIH", body[:14])
            coding = described[0]
            if coding == _EXTENSIBLE and len(body) >= 26:
                channel_mask, coding = struct.unpack("<IH", body[20:26])
    return None


def _read_chunk(read: Callable[[int], bytes], size: int) -> bytes:
    """Return the beginning of a chunk and pass over the rest of it."""
    kept = read(min(size, 64))
    left = size - len(kept)
    while left > 0 and (passed := read(min(left, 1 << 16))):
        left -= len(passed)
    return kept


def read_announced_s(path: Path) -> float | None:
    """Return the length that a file's header promises, even where the file is shorter.

    Returns:
        Seconds; None for anything but a RIFF/WAVE file that knows its length.

    Raises:
        DecodeError: The file is gone or cannot be read.
    """
    with open_readable(path) as file:
        header = parse_header(file.read)
    if header is None or header.data_bytes is None:
        return None
    bytes_per_s = header.block_bytes * header.sample_rate
    return header.data_bytes / bytes_per_s if bytes_per_s else None


def build_header(
    *,
    sample_rate: int,
    channels: int,
    bits: int,
    samples: int,
    tags: Mapping[str, str],
) -> bytes:
    """Return all that stands before the samples; its size depends on `tags` alone.

    A file beyond 4 GiB becomes RF64, for which room is kept in a JUNK chunk.

    Args:
        sample_rate: Hz.
        channels: Samples in a frame.
        bits: 16 or 24 for integers, 32 for floats.
        samples: Frames that follow.
        tags: By ffmpeg's names; those that INFO has no chunk for are left out.
    """
    block_bytes = channels * bits // 8
    data_bytes = samples * block_bytes
    kind = FLOAT if bits == 32 else PCM
    format_body = struct.pack(
        "<HHIIHH", kind, channels, sample_rate, sample_rate * block_bytes, block_bytes, bits
    )
    chunks = _chunk(b"fmt ", format_body)
    if kind == FLOAT:
        chunks += _chunk(b"fact", struct.pack("<I", min(samples, _UNKNOWN)))
    chunks += _build_info(tags)
    riff_bytes = 4 + 8 + _DS64_BYTES + len(chunks) + 8 + data_bytes + data_bytes % 2
    if riff_bytes <= _MAX_RIFF_BYTES:
        start = struct.pack("<4sI4s", b"RIFF", riff_bytes, b"WAVE")
        sizes = _chunk(b"JUNK", bytes(_DS64_BYTES))
        return start + sizes + chunks + struct.pack("<4sI", b"data", data_bytes)
    start = struct.pack("<4sI4s", b"RF64", _UNKNOWN, b"WAVE")
    sizes = _chunk(b"ds64", struct.pack("<QQQI", riff_bytes, data_bytes, samples, 0))
    return start + sizes + chunks + struct.pack("<4sI", b"data", _UNKNOWN)


def _build_info(tags: Mapping[str, str]) -> bytes:
    entries = b"".join(
        _chunk(_INFO[key], value.encode("utf-8", "replace") + b"\0")
        for key, value in sorted(tags.items())
        if key in _INFO
    )
    return _chunk(b"LIST", b"INFO" + entries) if entries else b""


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack("<4sI", name, len(body)) + body + b"\0" * (len(body) % 2)
