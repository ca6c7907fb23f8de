"""What is made small in training: functions of (model, mixture, stems)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from stemsplit.models.base import StemModel

Loss = Callable[[StemModel, Tensor, Tensor], Tensor]
"""(model, mixture (B, C, T), stems (B, S, C, T) in the order of model.stems) -> a number."""


@dataclass(frozen=True)
class LossConfig:
    """A weighted sum of terms.

    Attributes:
        terms: Keys of `TERMS`.
        weights: Of the terms, in the same order; none for 1 each.
        over_stems: Whether a term is the "mean" of its stems' or their "sum".
        centred: Whether the spectrograms' frames are centred, with the model's padding before the
            first sample and after the last, or begin with the first and end with the last sample.
        frames: Compare this many, from the first; 0 for all.
        resolutions: Transform lengths of "multi_resolution", in samples.
        resolution_hop: Distance between its frames, in samples.
        edge_samples: At either end, what the combined terms of the waveform leave out.
    """

    terms: tuple[str, ...] = ("magnitude_mse",)
    weights: tuple[float, ...] = ()
    over_stems: Literal["mean", "sum"] = "mean"
    centred: bool = True
    frames: int = 0
    resolutions: tuple[int, ...] = (4096, 2048, 1024, 512, 256)
    resolution_hop: int = 147
    edge_samples: int = 200
