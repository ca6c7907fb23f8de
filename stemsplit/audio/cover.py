"""The picture attached to a song, taken out of one file and made fit for another."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stemsplit.audio.ffmpeg import LOCAL_ONLY, Process, name_file
from stemsplit.audio.probe import probe

_MAX_BYTES: Final = 16 << 20
_FRONT_COVER: Final = 3


@dataclass(frozen=True)
class Cover:
    """A picture, byte for byte as it lay in the song.

    Attributes:
        data: A JPEG or PNG file.
        kind: "jpeg" or "png".
    """

    data: bytes
    kind: str


def read_cover(path: Path) -> Cover | None:
    """Return a song's attached picture; None where there is none that any format could hold.

    Raises:
        DecodeError: The file cannot be read.
    """
    stream = probe(path).cover_stream
    if stream is None:
        return None
    copy = ("-c", "copy", "-frames:v", "1", "-update", "1", "-f", "image2pipe", "pipe:1")
    process = Process(
        [*LOCAL_ONLY, "-i", name_file(path), "-map", f"0:{stream}", *copy], fetch=True
    )
    try:
        data = bytearray()
        while len(data) <= _MAX_BYTES and (piece := process.stdout.read(1 << 16)):
            data += piece
    finally:
        process.end()
        process.close_pipes()
    for kind, start in (("jpeg", b"\xff\xd8\xff"), ("png", b"\x89PNG\r\n\x1a\n")):
        if data.startswith(start) and len(data) <= _MAX_BYTES:
            return Cover(bytes(data), kind)
    return None


def encode_picture(cover: Cover) -> str:
    """Return a METADATA_BLOCK_PICTURE comment, by which Ogg files hold a cover.

    It is FLAC's picture block in base64 (RFC 9639, 8.8); its sizes may be left at 0.
    """
    mime = f"image/{cover.kind}".encode()
    block = struct.pack(">II", _FRONT_COVER, len(mime)) + mime
    block += struct.pack(">IIIIII", 0, 0, 0, 0, 0, len(cover.data)) + cover.data
    return base64.b64encode(block).decode()
