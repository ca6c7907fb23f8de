"""Sounds to test with, written by ffmpeg and read back whole."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stemsplit.audio import Decoder, decode_blocks, find_ffmpeg

Samples = np.ndarray[Any, np.dtype[np.float32]]


def run_ffmpeg(*arguments: str, feed: bytes = b"") -> bytes:
    """Run ffmpeg, as the tests' own tool, and return its standard output."""
    command = [str(find_ffmpeg()), "-v", "error", "-y", *arguments]
    done = subprocess.run(command, input=feed, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def make_music(samples: int, channels: int = 2, sample_rate: int = 44100) -> Samples:
    """Return a quiet chord with some noise, the same every time, no two stretches alike."""
    rng = np.random.default_rng(samples)
    time_s = np.arange(samples) / sample_rate
    rows = []
    for channel in range(channels):
        sweep = 2 * np.pi * (180 + 40 * channel + 3 * time_s) * time_s
        rows.append(
            0.2 * np.sin(sweep) + 0.1 * np.sin(2.51 * sweep) + 0.02 * rng.normal(size=samples)
        )
    return np.array(rows, np.float32)


def encode(path: Path, samples: Samples, sample_rate: int = 44100, *options: str) -> Path:
    """Write a sound file with ffmpeg, not with the code under test."""
    raw = ("-f", "f32le", "-ar", str(sample_rate), "-ac", str(samples.shape[0]), "-i", "pipe:0")
    feed = np.ascontiguousarray(samples.T).astype("<f4").tobytes()
    run_ffmpeg(*raw, *options, f"file:{path}", feed=feed)
    return path


def decode(path: Path, **options: Any) -> Samples:
    """Return all that `decode_blocks` yields, joined; a warning fails the test."""
    options.setdefault("on_warning", lambda message: pytest.fail(f"warned: {message}"))
    with decode_blocks(path, **options) as decoder:
        return join(decoder)


def join(decoder: Decoder) -> Samples:
    blocks = list(decoder)
    assert all(block.dtype == np.float32 and block.flags.c_contiguous for block in blocks)
    return np.concatenate([np.zeros((decoder.channels, 0), np.float32), *blocks], axis=1)
