"""Draw the README's picture: spectrograms of a mixture and of the stems taken from it.

    python tools/picture.py docs/stems.png

The mixture is stempeg's excerpt; the stems come from the default model. Only numpy and zlib draw.
"""

from __future__ import annotations

import importlib.metadata
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import stemsplit
from stemsplit.audio import decode_blocks
from stemsplit.dsp.stft import stft

EXCERPT = "stempeg/data/The Easton Ellises - Falcon 69.stem.mp4"
WIDTH, HEIGHT, GAP = 900, 190, 10
LOWEST_HZ, HIGHEST_HZ, RANGE_DB = 60.0, 16000.0, 75.0
# Dark violet to yellow, by way of magenta: anchors of a scale that grows evenly brighter.
COLOURS = np.array([[8, 6, 28], [72, 16, 108], [168, 44, 96], [238, 112, 50], [252, 240, 160]])


def draw_spectrogram(signal: torch.Tensor, sample_rate: int, top_db: float) -> NDArray[np.uint8]:
    """Return a picture of a signal, low frequencies below. Shape (HEIGHT, WIDTH, 3)."""
    power = stft(signal.mean(dim=0), 4096, 512).abs().square()
    hz = np.geomspace(HIGHEST_HZ, LOWEST_HZ, HEIGHT)
    rows = np.rint(hz * 4096 / sample_rate).astype(int)
    columns = np.linspace(0, power.shape[1] - 1, WIDTH).astype(int)
    level_db = 10 * np.log10(power.numpy()[np.ix_(rows, columns)] + 1e-12)
    bright = np.clip(1 + (level_db - top_db) / RANGE_DB, 0, 1) * (len(COLOURS) - 1)
    channels = [np.interp(bright, np.arange(len(COLOURS)), COLOURS[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write an RGB picture. Shape (H, W, 3)."""
    height, width, _ = picture.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    lines = b"".join(b"\x00" + row.tobytes() for row in picture)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def main() -> None:
    """Separate, draw, write."""
    song = Path(str(importlib.metadata.distribution("stempeg").locate_file(EXCERPT)))
    with decode_blocks(song) as blocks:
        mixture = torch.from_numpy(np.concatenate(list(blocks), axis=1))
        rate = blocks.sample_rate
    signals = [mixture, *stemsplit.separate(song).values()]
    top_db = float(10 * torch.log10(stft(mixture.mean(dim=0), 4096, 512).abs().square().max()))
    rows: list[NDArray[np.uint8]] = []
    for signal in signals:
        rows += [draw_spectrogram(signal, rate, top_db), np.full((GAP, WIDTH, 3), 255, np.uint8)]
    write_png(Path(sys.argv[1]), np.concatenate(rows[:-1]))


if __name__ == "__main__":
    main()
