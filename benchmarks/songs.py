"""The audio that the benchmarks use: stempeg's real excerpt, as long as is wanted."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stemsplit.audio import decode_blocks

EXCERPT = "stempeg/data/The Easton Ellises - Falcon 69.stem.mp4"


def find_excerpt() -> Path:
    """Return the excerpt; stream 0 is the mixture."""
    return Path(str(importlib.metadata.distribution("stempeg").locate_file(EXCERPT)))


def write_song(path: Path, seconds: float) -> Path:
    """Write the excerpt again and again until `seconds` are full, as 16-bit stereo WAV.

    An existing file is kept.
    """
    if path.exists():
        return path
    with decode_blocks(find_excerpt()) as blocks:
        excerpt = np.concatenate(list(blocks), axis=1)
        rate = blocks.sample_rate
    pcm = np.rint(np.clip(excerpt.T, -1, 1) * 32767).astype("<i2")
    left = round(seconds * rate)
    with wave.open(str(path), "wb") as song:
        song.setnchannels(2)
        song.setsampwidth(2)
        song.setframerate(rate)
        while left > 0:
            song.writeframesraw(pcm[:left].tobytes())
            left -= len(pcm)
    return path


def run_apart(function: Callable[..., None], *arguments: object) -> None:
    """Call a function in a process of its own.

    Linux counts what a parent holds when it starts a child into the child's own peak: what is
    measured has to start from a process that never held much.
    """
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} failed")


def write_stems(path: Path, stems: int, seconds: float) -> None:
    """Write the excerpt's first true stems in 16 bits, as musdb reads them, and estimates of them.

    The estimates are what leaks and saturation make of the stems.

    Shape of "true" and "heard": (stems, samples, 2), the order that museval takes.
    """
    true = []
    for stream in range(1, stems + 1):
        with decode_blocks(find_excerpt(), stream=stream) as blocks:
            decoded = np.concatenate(list(blocks), axis=1).T.astype(np.float64)
            excerpt = np.clip(np.rint(decoded * 2**15), -(2**15), 2**15 - 1) / 2**15
            samples = round(seconds * blocks.sample_rate)
        repeats = -(-samples // len(excerpt))
        true.append(np.tile(excerpt, (repeats, 1))[:samples])
    heard = [np.tanh(0.9 * one + 0.1 * true[place - 1]) for place, one in enumerate(true)]
    np.savez(path, true=np.stack(true), heard=np.stack(heard))
