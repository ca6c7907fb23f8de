"""Separate a real song and say how close its stems come to the true ones.

The song is the excerpt that the package stempeg ships: six seconds of "Falcon 69" by The Easton
Ellises, with the mixture as its first audio stream and drums, bass, other and vocals behind it.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stemsplit.audio import decode_blocks

EXCERPT = "stempeg/data/The Easton Ellises - Falcon 69.stem.mp4"
OUT = Path("demo")


def decode(path: Path, stream: int = 0) -> NDArray[np.float32]:
    """Return a whole short file. Shape (C, T)."""
    with decode_blocks(path, stream=stream) as blocks:
        return np.concatenate(list(blocks), axis=1)


def measure_sdr(true: NDArray[np.float32], estimate: NDArray[np.float32]) -> float:
    """Return 10 log10(|s|^2 / |s - e|^2) over all samples and channels, in dB (the uSDR)."""
    error = true.astype(np.float64) - estimate
    return float(10 * np.log10(np.sum(np.square(true, dtype=np.float64)) / np.sum(error**2)))


def main() -> int:
    """Separate the excerpt by the command itself, then compare what it wrote."""
    package = importlib.metadata.distribution("stempeg")
    song = Path(str(package.locate_file(EXCERPT)))
    command = [sys.executable, "-m", "stemsplit", str(song), "-o", str(OUT), "--overwrite"]
    print("$ stemsplit", f'"{song.name}"', "-o", OUT, flush=True)
    status = subprocess.run(command, check=False).returncode
    if status:
        return status
    folder = next(path.parent for path in OUT.glob("*/vocals.wav") if "Falcon" in path.parent.name)
    drums, bass, other, vocals = (decode(song, stream) for stream in range(1, 5))
    print(f"\n{'stem':15} {'SDR (dB)':>9}   file")
    for stem, true in (("vocals", vocals), ("accompaniment", drums + bass + other)):
        path = folder / f"{stem}.wav"
        print(f"{stem:15} {measure_sdr(true, decode(path)):9.3f}   {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
