"""Estimates that are to be kept: a file for each stem, exact to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from stemsplit.audio import StemWriter, parse_format


def name_stem(folder: Path, stem: str) -> Path:
    """Return a stem's place."""
    return folder / f"{stem}.wav"


def has_stem(folder: Path, stem: str) -> bool:
    """Say whether a stem is there, whole: it is written to another name, and renamed."""
    return name_stem(folder, stem).is_file()


def write_stems(folder: Path, stems: Mapping[str, Tensor], sample_rate: int) -> None:
    """Write stems as wav in 32-bit floats, so that scoring them again gives the same numbers.

    Args:
        folder: Made where it is missing.
        stems: By name. Shape of each: (C, T).
        sample_rate: Hz.

    Raises:
        OutputError: The place cannot be written to.
    """
    format = parse_format("wav", bits=32)
    for stem, samples in stems.items():
        with StemWriter(
            name_stem(folder, stem),
            sample_rate=sample_rate,
            channels=samples.shape[0],
            format=format,
        ) as writer:
            writer.write(samples.numpy())
