"""Sample-rate conversion of a stream, by soxr: linear phase, no delay, exact length."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray


class Resampler:
    """Convert blocks as they come; what comes out, joined, is what converting the whole gives.

    N samples in give round(N * target / source) samples out, give or take one; the first sample of
    either stands at the same instant. Equal rates hand blocks through untouched.
    """

    def __init__(self, source_hz: int, target_hz: int, channels: int) -> None:
        """Prepare a stream.

        Args:
            source_hz: Rate of what is fed.
            target_hz: Rate of what comes out.
            channels: Rows of every block.
        """
        self._channels = channels
        self._stream = (
            None
            if source_hz == target_hz
            else soxr.ResampleStream(source_hz, target_hz, channels, dtype="float32", quality="HQ")
        )

    def feed(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert the next block. Shape: (C, n) -> (C, m), m from 0 upwards."""
        return self._convert(block, last=False)

    def flush(self) -> NDArray[np.float32]:
        """Return what is still on its way, once, at the end. Shape: (C, m)."""
        return self._convert(np.zeros((self._channels, 0), np.float32), last=True)

    def _convert(self, block: NDArray[np.float32], *, last: bool) -> NDArray[np.float32]:
        if self._stream is None:
            return block
        converted = self._stream.resample_chunk(np.ascontiguousarray(block.T), last=last)
        return np.ascontiguousarray(converted.reshape(-1, self._channels).T)
