"""A tiny data set and tiny recipes: what the tests of a whole training run on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from stemsplit.models.catalogue import find_architecture
from stemsplit.training.recipe import RecipeConfig, build_recipe, to_table

STEMS = ("vocals", "drums")
RATE = 44100


def write_songs(root: Path, *, train: int = 3, valid: int = 1, seconds: float = 2.0) -> Path:
    """Write noise in place of songs; each stem has a band of its own."""
    dice = np.random.default_rng(5)
    for split, count in (("train", train), ("valid", valid)):
        for number in range(count):
            folder = root / split / f"{split} {number}"
            folder.mkdir(parents=True)
            for place, stem in enumerate(STEMS):
                noise = dice.standard_normal((int(seconds * RATE), 2)) * 0.1
                smooth = np.cumsum(noise, axis=0) - np.cumsum(noise, axis=0).mean(axis=0)
                sound = 0.02 * smooth if place else np.diff(noise, axis=0, append=0)
                sound = np.clip(sound, -0.9, 0.9)
                soundfile.write(folder / f"{stem}.wav", sound, RATE, subtype="FLOAT")
    return root


def make_recipe(architecture: str, **sections: dict[str, Any]) -> RecipeConfig:
    """Return a recipe of an architecture's tiny form: two epochs of three steps, threads none."""
    config = to_table(find_architecture(architecture).Config.tiny(STEMS))
    above = {key: config.pop(key) for key in ("stems", "channels", "sample_rate")}
    values: dict[str, dict[str, Any]] = {
        "model": {"architecture": architecture, "config": config, **above},
        "data": {"excerpt_s": 0.0, "samples_per_track": 2, "workers": 0},
        "loss": {"terms": ["waveform_l1"]},
        "training": {"batch": 2, "max_epochs": 2, "checkpoint_steps": 1, "log_steps": 1,
                     "tensorboard": False},
        "validation": {"excerpts": 1, "tracks": 0},
    }  # fmt: skip
    if architecture == "open-unmix":
        values["data"]["excerpt_s"] = 0.25
    if architecture == "x-umx":
        values["data"]["excerpt_s"] = 0.25
    for section, changes in sections.items():
        values.setdefault(section, {}).update(changes)
    return build_recipe(values)
