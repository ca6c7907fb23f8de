"""How loud the stems are, and what is done about those beyond full scale.

Stems are never normalised one by one: what changes the level is one gain for all stems of a song,
so that they still sum to the mixture times that gain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from stemsplit.dsp.loudness import LoudnessMeter

if TYPE_CHECKING:
    from stemsplit.audio import OutputFormat

ClipMode = Literal["none", "rescale", "clamp"]
CLIP_MODES = ("none", "rescale", "clamp")

Samples = NDArray[np.float32]


class LevelMeter:
    """Peak, samples beyond full scale, and loudness of one stem, as its blocks stream by.

    Attributes:
        peak: Highest absolute sample so far, linear.
        over: Number of samples so far whose absolute value is above 1.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        """Start at silence.

        Args:
            sample_rate: Hz.
            channels: Rows of every block.
        """
        self.peak = 0.0
        self.over = 0
        self._loudness = LoudnessMeter(sample_rate, channels)

    def feed(self, block: Samples) -> None:
        """Take the next samples. Shape: (C, n)."""
        if not block.size:
            return
        peak = max(float(block.max()), -float(block.min()))
        self.peak = max(self.peak, peak)
        if peak > 1.0:
            self.over += int(np.count_nonzero(np.abs(block) > 1.0))
        self._loudness.feed(block)

    def peak_db(self, gain: float = 1.0) -> float | None:
        """Return the peak after a gain, in dB relative to full scale; None for silence."""
        return to_db(self.peak * gain)

    def loudness_lufs(self, gain: float = 1.0) -> float | None:
        """Return the integrated loudness after a gain; None for silence or under 0.4 s."""
        loudness = self._loudness.integrated_lufs(gain)
        return None if loudness is None else round(loudness, 2)


def to_db(amplitude: float) -> float | None:
    """Return 20 log10 of it, to a hundredth; None for zero."""
    return round(20 * math.log10(amplitude), 2) + 0.0 if amplitude > 0 else None


def choose_gain(peak: float) -> float:
    """Return the one gain that brings a song whose highest sample is `peak` to full scale.

    Returns:
        Exactly 1 for a peak of at most 1; otherwise a float32 whose float32 product with any
        sample is at most 1.
    """
    if peak <= 1.0:
        return 1.0
    # Rounded to nearest, 1 / peak is off by at most one part in 2^24, and 1 + 2^-24 rounds to 1.
    return float(np.float32(1.0) / np.float32(peak))


def describe_levels(
    meters: Mapping[str, LevelMeter], gain: float, clip: ClipMode, format: OutputFormat
) -> list[str]:
    """Say what was done to samples beyond full scale, and what could be done instead.

    Returns:
        Sentences for the person; none when nothing was touched.
    """
    if gain != 1.0:
        loudest = max(meters, key=lambda stem: meters[stem].peak)
        return [
            f"all stems are {-20 * math.log10(gain):.2f} dB quieter than in the mixture, by one "
            f"common gain: {loudest} peaked at {_show_peak(meters[loudest])}"
        ]
    over = {stem: meter for stem, meter in meters.items() if meter.over}
    if not over or (clip == "none" and is_float(format)):
        return []
    listed = ", ".join(
        f"{stem} ({meter.over} samples, peak {_show_peak(meter)})" for stem, meter in over.items()
    )
    if clip == "clamp":
        return [f"limited to full scale, as --clip clamp says: {listed}"]
    fate = "clipped at full scale" if format.is_lossless else "beyond full scale, players clip it"
    floats = "--bits 32" if format.name == "wav" else "--format wav --bits 32"
    return [f"{fate}: {listed}; --clip rescale or {floats} keeps the waves whole"]


def is_float(format: OutputFormat) -> bool:
    """Say whether samples beyond full scale survive in a format."""
    return bool(format.name == "wav" and format.bits == 32)


def _show_peak(meter: LevelMeter) -> str:
    return f"{meter.peak_db() or 0.0:+.2f} dBFS"
