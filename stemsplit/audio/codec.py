"""How ffmpeg is told to write each format, and what is done about what a format does not have.

- mp3 has nine sample rates and AAC thirteen. Any other becomes the highest of these that divides
  it, if it is above all of them (88.2 kHz: 44.1 kHz for mp3), else the next higher one.
- Opus always runs at 48 kHz.
- A bit rate above what the codec takes for this rate and number of channels becomes the highest.
- Vorbis works by quality. The bit rate picks the quality that has it with stereo music at 44.1 kHz.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from stemsplit.audio.formats import OutputFormat

_MP3_RATES: Final = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_AAC_RATES: Final = (7350, *_MP3_RATES, 64000, 88200, 96000)
_OPUS_RATE: Final = 48000
_OPUS_KBPS_PER_CHANNEL: Final = 256

# Nominal kbit/s of Vorbis qualities -1 to 10, stereo at 44.1 kHz (libvorbis, vorbisenc).
_VORBIS_KBPS: Final = (45, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 500)

_BITEXACT: Final = ("-fflags", "+bitexact", "-flags:a", "+bitexact")


def name_raw_format(format: OutputFormat) -> str:
    """Return ffmpeg's name for the interleaved samples that are sent to it."""
    return {None: "f32le", 16: "s16le", 24: "s24le", 32: "f32le"}[format.bits]


def choose_rate(format: OutputFormat, sample_rate: int) -> int:
    """Return the rate in Hz that a file of this format gets for sound at `sample_rate`."""
    if format.name == "opus":
        return _OPUS_RATE
    rates = {"mp3": _MP3_RATES, "m4a": _AAC_RATES}.get(format.name)
    return sample_rate if rates is None else _choose_nearest(rates, sample_rate)


def _choose_nearest(rates: Sequence[int], sample_rate: int) -> int:
    higher = [rate for rate in rates if rate >= sample_rate]
    if higher:
        return min(higher)
    dividing = [rate for rate in rates if sample_rate % rate == 0]
    return max(dividing, default=max(rates))


def build_encoder(format: OutputFormat, sample_rate: int, channels: int) -> list[str]:
    """Return the arguments from the codec to the container, for sound at `sample_rate` Hz."""
    kbps = format.bit_rate_kbps or 0
    rate = ("-ar:a", str(choose_rate(format, sample_rate)))
    if format.name == "flac":
        # libFLAC's block; left to itself, ffmpeg cannot write a song of less than 16 samples.
        chosen = ["-c:a", "flac", "-frame_size", "4096", "-f", "flac"]
    elif format.name == "mp3":
        chosen = ["-c:a", "libmp3lame", "-b:a", f"{kbps}k", "-id3v2_version", "3", "-f", "mp3"]
    elif format.name == "ogg":
        quality = float(np.interp(kbps * 2 / channels, _VORBIS_KBPS, range(-1, 11)))
        chosen = ["-c:a", "libvorbis", "-q:a", f"{quality:.3f}", "-f", "ogg"]
    elif format.name == "opus":
        highest = _OPUS_KBPS_PER_CHANNEL * channels
        chosen = ["-c:a", "libopus", "-b:a", f"{min(kbps, highest)}k", "-f", "opus"]
    else:
        chosen = ["-c:a", "aac", "-b:a", f"{kbps}k", "-f", "ipod"]
    return [*rate, *_BITEXACT, *chosen]
