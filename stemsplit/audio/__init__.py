"""Sound in and out: the only room that runs ffmpeg.

info = probe(path)                                   # streams, length, tags; nothing is decoded
with decode_blocks(path) as blocks:                  # float32 (channels, n), one after another
    with StemWriter(out, sample_rate=blocks.sample_rate, channels=blocks.channels,
                    format=parse_format("flac"), tags=info.tags) as writer:
        for block in blocks:
            writer.write(block)
"""

from __future__ import annotations

from stemsplit.audio.decode import Decoder, decode_blocks
from stemsplit.audio.encode import StemWriter
from stemsplit.audio.ffmpeg import ffmpeg_version, find_ffmpeg
from stemsplit.audio.formats import FORMATS, OutputFormat, parse_format
from stemsplit.audio.probe import AudioInfo, StreamInfo, probe
from stemsplit.audio.spool import spool_stream
from stemsplit.audio.stem_mp4 import write_stem_mp4

__all__ = [
    "FORMATS",
    "AudioInfo",
    "Decoder",
    "OutputFormat",
    "StemWriter",
    "StreamInfo",
    "decode_blocks",
    "ffmpeg_version",
    "find_ffmpeg",
    "parse_format",
    "probe",
    "spool_stream",
    "write_stem_mp4",
]
