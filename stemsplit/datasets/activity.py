"""Where a stem sounds: windows of 6 s in which it is not silent.

Source activity detection as in "Music Source Separation with Band-split RNN" (Luo and Yu, 2023),
section III-A, with the parameters of the BandSplitRNN-PyTorch repository: a window is kept when in
every channel more than half of its 10 chunks are louder than a threshold, which is the 0.15
quantile of the window's own chunks and at least 1e-3.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class ActivityParameters:
    """What counts as sound.

    Attributes:
        window_s: Length of a window.
        chunks: Equal parts of a window; windows begin every half of that many.
        quantile: Of the RMS of a window's chunks, linearly interpolated: the threshold ...
        least: ... and the lowest that it can be.
        share: More than this share of the chunks has to be above the threshold.
    """

    window_s: float = 6.0
    chunks: int = 10
    quantile: float = 0.15
    least: float = 1e-3
    share: float = 0.5

    def as_table(self) -> dict[str, float]:
        """Return them for a file."""
        return asdict(self)


class ActivityMeter:
    """Takes a recording in blocks and keeps one number per chunk of 0.6 s and channel."""

    def __init__(
        self,
        sample_rate: int,
        channels: int,
        parameters: ActivityParameters = ActivityParameters(),
    ) -> None:
        """Start with nothing heard.

        Args:
            sample_rate: Hz.
            channels: Of every block.
            parameters: What counts as sound.
        """
        self._parameters = parameters
        self._chunk_samples = max(1, round(parameters.window_s * sample_rate / parameters.chunks))
        self._rest = np.zeros((channels, 0), np.float32)
        self._squares: list[NDArray[np.float64]] = []

    def feed(self, block: Samples) -> None:
        """Take the next samples. Shape: (C, n)."""
        size = self._chunk_samples
        samples = np.concatenate((self._rest, block), axis=1)
        count = samples.shape[1] // size
        # Copied, as a view would keep the whole block.
        self._rest = samples[:, count * size :].copy()
        for index in range(count):
            chunk = samples[:, index * size : (index + 1) * size].astype(np.float64)
            self._squares.append(np.einsum("ct,ct->c", chunk, chunk) / size)

    def find_windows(self) -> list[tuple[int, int]]:
        """Return start and stop, in samples, of every window in which there is sound.

        Windows overlap by half. What is shorter than one window has none.
        """
        chunks = self._parameters.chunks
        if len(self._squares) < chunks:
            return []
        # The repository gives exactly silent chunks an RMS of 1e-5; below `least` that is the same.
        rms = np.sqrt(np.stack(self._squares))  # (chunks of the recording, C)
        windows = np.lib.stride_tricks.sliding_window_view(rms, chunks, axis=0)[:: chunks // 2]
        threshold = np.quantile(windows, self._parameters.quantile, axis=-1, keepdims=True)
        loud = windows > np.maximum(threshold, self._parameters.least)
        kept = (loud.mean(axis=-1) > self._parameters.share).all(axis=1)
        hop, length = chunks // 2 * self._chunk_samples, chunks * self._chunk_samples
        return [(int(index) * hop, int(index) * hop + length) for index in np.flatnonzero(kept)]
