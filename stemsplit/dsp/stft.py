"""The short-time Fourier transform that every spectrogram network here was trained on.

Periodic Hann window of `n_fft` samples, centred frames, one-sided, not normalised: frame n is
centred on sample n * hop_length, and T samples give T // hop_length + 1 frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from stemsplit.dsp.memory import new_empty

PadMode = Literal["reflect", "constant"]
BLOCK_ROWS = 64
"""How many frames of whatever signals are transformed at a time: what a core's cache holds."""


def hann_window(n_fft: int, like: Tensor) -> Tensor:
    """Return the periodic Hann window of `n_fft` samples, real, on the device of `like`.

    Shape: (n_fft,).
    """
    dtype = like.real.dtype if like.is_complex() else like.dtype
    return torch.hann_window(n_fft, periodic=True, dtype=dtype, device=like.device)


def split_frames(frames: int, signals: int, like: Tensor) -> Iterator[slice]:
    """Yield the frames of a transform in order, as many at a time as are best taken together.

    A few at a time stay in a processor's cache, and all of them are never there at once. For
    gradients that would be more steps back, each of which copies the whole, and on a GPU more
    steps, each of which is waited for.

    Args:
        frames: How many there are.
        signals: How many transforms there are side by side.
        like: What is transformed.
    """
    size = max(1, frames)
    if like.device.type == "cpu" and not like.requires_grad:
        size = max(8, BLOCK_ROWS // max(1, signals))
    for start in range(0, frames, size):
        yield slice(start, min(start + size, frames))


def stft(signal: Tensor, n_fft: int, hop_length: int, *, pad_mode: PadMode = "reflect") -> Tensor:
    """Transform signals of any length from one sample upwards.

    Where a signal is too short to be reflected (T <= n_fft / 2), zeros are put behind it first;
    frames past T // hop_length + 1 are not returned.

    Args:
        signal: Real samples. Shape: (..., T).
        n_fft: Window and transform length, in samples.
        hop_length: Distance between frames, in samples.
        pad_mode: What stands before the first and after the last sample.

    Returns:
        Complex spectrogram. Shape: (..., F, N), F = n_fft // 2 + 1, N = T // hop_length + 1; a
        frame's bins lie side by side.
    """
    samples = signal.shape[-1]
    frames = samples // hop_length + 1
    flat = signal.reshape(-1, samples)
    short = n_fft // 2 + 1 - samples
    if pad_mode == "reflect" and short > 0:
        flat = functional.pad(flat, (0, short))
    padded = _pad(flat, n_fft // 2, pad_mode)
    cut = padded.unfold(-1, n_fft, hop_length)[:, :frames]
    window = hann_window(n_fft, signal)
    blocks = list(split_frames(frames, len(flat), signal))
    if len(blocks) == 1:
        spectrum: Tensor = torch.fft.rfft(cut * window)
    else:
        shape = len(flat), frames, n_fft // 2 + 1
        spectrum = new_empty(signal, shape, signal.dtype.to_complex())
        for block in blocks:
            spectrum[:, block] = torch.fft.rfft(cut[:, block] * window)
    spectrum = spectrum.transpose(-2, -1)
    return spectrum.reshape(*signal.shape[:-1], n_fft // 2 + 1, frames)


def magnitudes(spectrum: Tensor) -> Tensor:
    """Return |X|, a frame's bins side by side. Shape: complex (..., F, N) -> real (..., F, N)."""
    turned = spectrum.transpose(-2, -1)
    *signals, count, _ = turned.shape
    blocks = list(split_frames(count, math.prod(signals), spectrum))
    if len(blocks) == 1:
        return turned.abs().transpose(-2, -1)
    given = new_empty(spectrum, turned.shape, spectrum.dtype.to_real())
    for block in blocks:
        given[..., block, :] = turned[..., block, :].abs()
    return given.transpose(-2, -1)


def _pad(flat: Tensor, count: int, mode: PadMode) -> Tensor:
    """Put so many samples before and behind. Shape: (R, T) -> (R, T + 2 * count)."""
    rows, samples = flat.shape
    padded = new_empty(flat, (rows, samples + 2 * count))
    padded[:, count : count + samples] = flat
    before, behind = padded[:, :count], padded[:, count + samples :]
    if mode == "reflect":
        before.copy_(flat[:, 1 : count + 1].flip(-1))
        behind.copy_(flat[:, samples - count - 1 : samples - 1].flip(-1))
    else:
        before.zero_()
        behind.zero_()
    return padded


def istft(spectrum: Tensor, hop_length: int, samples: int) -> Tensor:
    """Invert `stft` by weighted overlap-add, to exactly `samples` samples.

    Args:
        spectrum: Complex spectrogram. Shape: (..., F, N).
        hop_length: Distance between frames, in samples.
        samples: Length T of the result; at most (N - 1) * hop_length + hop_length - 1 is covered
            by the frames of a signal of that length.

    Returns:
        Real signal. Shape: (..., T).
    """
    resynthesis = Resynthesis(hop_length, spectrum.shape[-1])
    resynthesis.add(spectrum)
    return resynthesis.finish(samples)


class Resynthesis:
    """`istft` of frames that come a few at a time."""

    def __init__(self, hop_length: int, frames: int, outer_frames: int = 0) -> None:
        """Begin.

        Args:
            hop_length: Distance between frames, in samples.
            frames: N, how many will come; at least one.
            outer_frames: How many of silence stand before the first, and behind the last.
        """
        self._hop_length = hop_length
        self._frames = frames + 2 * outer_frames
        self._end = frames + outer_frames
        self._n_fft = 0
        self._added = outer_frames
        self._total = torch.empty(0)

    def add(self, spectrum: Tensor) -> None:
        """Transform the next frames back. Shape: complex (..., F, n), n from 1 to N."""
        *signals, bins, count = spectrum.shape
        window = hann_window(2 * (bins - 1), spectrum)
        hops = -(-len(window) // self._hop_length)
        if not self._n_fft:
            self._n_fft = len(window)
            shape = (*signals, self._frames + hops - 1, self._hop_length)
            self._total = new_empty(window, shape).zero_()
        for some in split_frames(count, math.prod(signals), spectrum):
            frames = torch.fft.irfft(spectrum[..., some].transpose(-2, -1), self._n_fft)
            frames *= window
            end = self._added + frames.shape[-2]
            _overlap_add(frames, self._total[..., self._added : end + hops - 1, :])
            self._added = end

    def finish(self, samples: int) -> Tensor:
        """Return the signal, once, after all of the frames. Shape: real (..., T), T = `samples`."""
        assert self._added == self._end, f"{self._added} frames of {self._end}"
        weight = self._total.new_zeros(self._total.shape[-2:])
        square = hann_window(self._n_fft, weight).square()
        _overlap_add(square.expand(self._frames, -1), weight)
        heard = slice(self._n_fft // 2, self._n_fft // 2 + samples)
        signal = self._total.flatten(-2)[..., heard].div_(weight.flatten()[heard])
        short = samples - signal.shape[-1]
        return functional.pad(signal, (0, short)) if short > 0 else signal


def _overlap_add(frames: Tensor, total: Tensor) -> None:
    """Add overlapping frames to what is there.

    A few sums of arrays, hop by hop: torch.istft takes about twice as long.

    Args:
        frames: Shape (..., N, n).
        total: Changed. Shape (..., N + ceil(n / hop) - 1, hop).
    """
    count, hop_length = frames.shape[-2], total.shape[-1]
    for index, part in enumerate(frames.split(hop_length, dim=-1)):
        total[..., index : index + count, : part.shape[-1]] += part
