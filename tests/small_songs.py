"""Small data sets for scoring: mono, 2 s at 4 kHz, in 16 bits, and estimates of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE = 4000
SAMPLES = 8000
STEMS = ("drums", "bass", "other", "vocals")


def make_stems(seed: int, stems: tuple[str, ...] = STEMS) -> dict[str, np.ndarray]:
    """Return noise, a colour each, that 16 bits hold exactly. Shape of each: (samples, 1)."""
    dice = np.random.default_rng(seed)
    made = {}
    for place, stem in enumerate(stems):
        noise = 0.05 * dice.standard_normal(SAMPLES)
        noise[place + 1 :] += 0.5 * noise[: -place - 1]
        made[stem] = (np.round(noise * 2**15) / 2**15)[:, None]
    return made


def write_track(folder: Path, stems: dict[str, np.ndarray], rate: int = RATE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, samples in stems.items():
        soundfile.write(folder / f"{stem}.wav", samples, rate, subtype="FLOAT")


def spoil(stems: dict[str, np.ndarray], share: float = 0.2) -> dict[str, np.ndarray]:
    """Return estimates: each stem with a share of the next, and a little noise."""
    dice = np.random.default_rng(99)
    names = list(stems)
    spoiled = {}
    for place, stem in enumerate(names):
        other = stems[names[(place + 1) % len(names)]]
        noise = 0.001 * dice.standard_normal(other.shape)
        spoiled[stem] = (1 - share) * stems[stem] + share * other + noise
    return spoiled


def write_dataset(root: Path, names: tuple[str, ...] = ("one", "two")) -> Path:
    for seed, name in enumerate(names):
        stems = make_stems(seed)
        mixture = sum(stems.values())
        write_track(root / "test" / name, {**stems, "mixture": mixture})
    return root


def write_estimates(root: Path, names: tuple[str, ...] = ("one", "two")) -> Path:
    for seed, name in enumerate(names):
        write_track(root / name, spoil(make_stems(seed)))
    return root
