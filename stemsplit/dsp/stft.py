"""The short-time Fourier transform that every spectrogram network here was trained on.

Periodic Hann window of `n_fft` samples, centred frames, one-sided, not normalised: frame n is
centred on sample n * hop_length, and T samples give T // hop_length + 1 frames.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

PadMode = Literal["reflect", "constant"]
BLOCK_FRAMES = 32
"""How many frames are transformed back at a time."""


def hann_window(n_fft: int, like: Tensor) -> Tensor:
    """Return the periodic Hann window of `n_fft` samples, real, on the device of `like`.

    Shape: (n_fft,).
    """
    dtype = like.real.dtype if like.is_complex() else like.dtype
    return torch.hann_window(n_fft, periodic=True, dtype=dtype, device=like.device)


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
        Complex spectrogram. Shape: (..., F, N), F = n_fft // 2 + 1, N = T // hop_length + 1.
    """
    samples = signal.shape[-1]
    frames = samples // hop_length + 1
    flat = signal.reshape(-1, samples)
    if pad_mode == "reflect" and samples <= n_fft // 2:
        flat = functional.pad(flat, (0, n_fft // 2 + 1 - samples))
    spectrum = torch.stft(
        flat,
        n_fft,
        hop_length,
        window=hann_window(n_fft, signal),
        center=True,
        pad_mode=pad_mode,
        return_complex=True,
    )[..., :frames]
    return spectrum.reshape(*signal.shape[:-1], n_fft // 2 + 1, frames)


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
    n_fft = 2 * (spectrum.shape[-2] - 1)
    window = hann_window(n_fft, spectrum)
    count = spectrum.shape[-1]
    hops = -(-n_fft // hop_length)
    total = window.new_zeros(*spectrum.shape[:-2], count + hops - 1, hop_length)
    # A few frames at a time stay in a processor's cache, and all of them are never there at once.
    # For gradients that would be more steps back, each of which copies the whole.
    block = count if spectrum.requires_grad else BLOCK_FRAMES
    for start in range(0, count, block):
        some = spectrum[..., start : start + block]
        frames = torch.fft.irfft(some.transpose(-2, -1), n_fft)
        frames *= window
        _overlap_add(frames, total[..., start : start + some.shape[-1] + hops - 1, :])
    weight = window.new_zeros(count + hops - 1, hop_length)
    _overlap_add(window.square().expand(count, -1), weight)
    heard = slice(n_fft // 2, n_fft // 2 + samples)
    signal = total.flatten(-2)[..., heard] / weight.flatten()[heard]
    return functional.pad(signal, (0, samples - signal.shape[-1]))


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
