"""Data sets of a few samples, laid out as people have them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

MUSDB = ("drums", "bass", "other", "vocals")
RATE = 8000


def add_track(
    folder: Path,
    stems: Iterable[str] = MUSDB,
    *,
    suffix: str = "wav",
    samples: int = 400,
    rate: int = RATE,
    seed: int = 0,
) -> Path:
    """Write a track's stems, quiet noise of two channels, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for stem in stems:
        noise = random.uniform(-0.2, 0.2, (samples, 2))
        soundfile.write(folder / f"{stem}.{suffix}", noise, rate, subtype="PCM_16")
    return folder


def add_stem_mp4(path: Path) -> None:
    """Put a file where a .stem.mp4 would be; opening a data set does not look into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
