"""A model whose stems are known, every one the mixture times a number, and songs for it."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from stemsplit.models.base import ChunkPlan, Encoded, ModelConfig, Refine, StemModel
from stemsplit.separation.events import Event
from stemsplit.separation.files import FileOptions, Result, plan_jobs, separate_file
from stemsplit.separation.manifest import hash_file
from stemsplit.separation.separator import Separator


@dataclass(frozen=True)
class LinearConfig(ModelConfig):
    stems: tuple[str, ...] = ("vocals", "accompaniment")
    gains: tuple[float, ...] = (0.3, 0.7)


class Gains(nn.Module):
    def __init__(self, gains: tuple[float, ...], pause_s: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("gains", torch.tensor(gains).reshape(1, -1, 1, 1))
        self.pause_s = pause_s

    def forward(self, mixture: Tensor) -> Tensor:
        time.sleep(self.pause_s)
        return mixture.unsqueeze(1) * self.gains


GAINS = {"vocals": 0.3, "accompaniment": 0.65}
"""Of `separate_song`; they do not sum to one, so that a residual is left."""


class LinearModel(StemModel):
    Config = LinearConfig
    chunk = ChunkPlan(samples=44100, overlap=0.0)

    def __init__(
        self, gains: dict[str, float] | None = None, *, name: str = "linear", pause_s: float = 0.0
    ) -> None:
        gains = gains or {"vocals": 0.3, "accompaniment": 0.7}
        super().__init__(LinearConfig(stems=tuple(gains), gains=tuple(gains.values())))
        self.core = Gains(tuple(gains.values()), pause_s)
        self.weights_sha256 = name

    def encode(self, mixture: Tensor) -> Encoded:
        return Encoded((mixture,), None)

    def decode(
        self, outputs: tuple[Tensor, ...], carry: object, refine: Refine | None = None
    ) -> Tensor:
        return outputs[0][:, self.stem_indices]


def write_song(
    path: Path,
    seconds: float = 3.0,
    *,
    rate: int = 44100,
    channels: int = 2,
    seed: int = 0,
    peak: float = 0.5,
) -> np.ndarray:
    """Write noise and return it. Shape (C, T)."""
    rng = np.random.default_rng(seed)
    samples = rng.uniform(-1, 1, (channels, round(seconds * rate))).astype(np.float32)
    samples *= np.float32(peak) / np.abs(samples).max()
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.ascontiguousarray(samples.T).tobytes()
    # By hand: soundfile writes the time of day into the headers of float files.
    frame = 4 * channels
    form = struct.pack("<HHIIHH", 3, channels, rate, rate * frame, frame, 32)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return samples


def separate_song(
    source: Any = "song.wav",
    *,
    gains: dict[str, float] | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    cancelled: threading.Event | None = None,
    separator: dict[str, Any] | None = None,
    **options: Any,
) -> Result:
    settled = Separator(LinearModel(gains or GAINS), **(separator or {}))
    chosen = FileOptions(**options)
    (job,) = plan_jobs([source], stems=settled.stems, model="linear", options=chosen)
    return separate_file(settled, job, chosen, on_event, cancelled)


def read_song(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float64", always_2d=True)[0].T


def hash_tree(folder: str | Path = ".") -> dict[str, str]:
    """All files with their hashes."""
    found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {path.as_posix(): hash_file(path) for path in found}
