"""What was asked for, checked against a model: stems, device, numbers, chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from stemsplit.errors import DeviceError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from stemsplit.models.base import ChunkPlan, StemModel

Framing = Literal["default", "original"]
FRAMINGS = ("default", "original")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RESIDUAL = "residual"


@dataclass(frozen=True)
class Options:
    """How to separate; every field has the default that most people want.

    Attributes:
        stems: Which stems; None for all of the model's.
        two_stems: One stem S and, as "no_S", the mixture minus it. Excludes `stems` and `residual`.
        residual: Add the stem "residual": the mixture minus the sum of all other stems given.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "auto", "fp32", "bf16" or "fp16" for the network; signals stay float32.
        segment_s: Chunk length in seconds instead of the model's own.
        overlap: Share of a chunk that the next one sees again, 0 to 0.75, instead of the model's.
        shifts: Average over this many runs whose chunks begin elsewhere; 0 or 1 for a single run.
        seed: Decides the shifts.
        wiener: Iterations of the multichannel Wiener filter over all stems; 0 for none.
        framing: "default", or "original": the whole song at once, as the authors' own code frames
            it. Memory grows with the song.
        stream: Which of the file's audio streams, from 0.
        start_s: Where to begin, in seconds.
        duration_s: How much to take, in seconds; None for all.
    """

    stems: tuple[str, ...] | None = None
    two_stems: str | None = None
    residual: bool = False
    device: str = "auto"
    precision: str = "auto"
    segment_s: float | None = None
    overlap: float | None = None
    shifts: int = 0
    seed: int = 0
    wiener: int = 0
    framing: Framing = "default"
    stream: int = 0
    start_s: float = 0.0
    duration_s: float | None = None
