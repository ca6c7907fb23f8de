"""Another tempo at the same pitch, and another pitch at the same tempo: a phase vocoder.

Laroche, Dolson: Improved phase vocoder time-scale modification of audio. IEEE Trans. Speech and
Audio Processing 7(3), 1999, section III-C. Good enough to learn from; transients are smeared.

Letters in shapes: V signals, T samples, F bins, N frames.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from stemsplit.dsp.stft import istft, stft

N_FFT = 2048
HOP = 512
PEAK_BINS = 2
"""A bin is a peak where none of so many on either side is louder."""


def stretch(signal: Tensor, rate: float, samples: int) -> Tensor:
    """Play a signal faster or slower at its pitch.

    Args:
        signal: Shape (..., T).
        rate: Above 1 is faster.
        samples: T', cut or filled up with zeros to.

    Returns:
        Shape (..., T').
    """
    if rate == 1:
        return functional.pad(signal, (0, samples - signal.shape[-1]))
    spectrum = stft(signal.reshape(-1, signal.shape[-1]), N_FFT, HOP)
    count = math.ceil(spectrum.shape[-1] / rate)
    moments = torch.arange(count, device=signal.device) * rate
    index = moments.long()
    share = moments - index
    # Behind the last frame there is silence.
    frames = torch.view_as_complex(functional.pad(torch.view_as_real(spectrum), (0, 0, 0, 1)))
    here, there = frames[..., index], frames[..., index + 1]
    magnitude = (1 - share) * here.abs() + share * there.abs()
    phase = _lock_phases(here.angle(), there.angle(), _find_peaks(here.abs()))
    stretched = istft(torch.polar(magnitude, phase), HOP, min(samples, (count - 1) * HOP))
    stretched = functional.pad(stretched, (0, samples - stretched.shape[-1]))
    return stretched.reshape(*signal.shape[:-1], samples)


def _find_peaks(magnitude: Tensor) -> Tensor:
    """Return the nearest peak of each bin. Shape (V, F, N) -> (V, F, N), bins."""
    bins = magnitude.shape[1]
    across = magnitude.transpose(1, 2)
    highest = functional.max_pool1d(across, 2 * PEAK_BINS + 1, stride=1, padding=PEAK_BINS)
    is_peak = across >= highest
    places = torch.arange(bins, device=magnitude.device).expand_as(across)
    # A frame's loudest bin is always one, so that only one side can be without.
    below = torch.where(is_peak, places, -bins).cummax(dim=-1).values
    above = torch.where(is_peak, places, 2 * bins).flip(-1).cummin(dim=-1).values.flip(-1)
    nearest = torch.where(places - below <= above - places, below, above)
    return nearest.transpose(1, 2)


def _lock_phases(here: Tensor, there: Tensor, peaks: Tensor) -> Tensor:
    """Return phases in which peaks turn on as they do in the song, and the bins around with them.

    Args:
        here: Phases of the song's frames at or before each moment. Shape (V, F, N).
        there: Of those behind. Hops are the same: whole turns do not count.
        peaks: Each bin's nearest peak.

    Returns:
        Shape (V, F, N).
    """
    advance = there - here
    around = here - here.gather(1, peaks)
    phase = here[..., 0]
    phases = [phase]
    for frame in range(1, here.shape[-1]):
        peak = peaks[..., frame]
        phase = (phase + advance[..., frame - 1]).gather(1, peak) + around[..., frame]
        phases.append(phase)
    return torch.stack(phases, dim=-1)


def shift_pitch(signal: Tensor, semitones: float) -> Tensor:
    """Play a signal higher or lower at its tempo.

    Args:
        signal: Shape (..., T).
        semitones: Above 0 is higher.

    Returns:
        Shape (..., T).
    """
    samples = signal.shape[-1]
    if semitones == 0 or samples == 0:
        return signal
    factor = 2 ** (semitones / 12)
    return resample(stretch(signal, 1 / factor, round(samples * factor)), samples)


def resample(signal: Tensor, samples: int) -> Tensor:
    """Bring a signal to another number of samples, by the spectrum of all of it: no aliases.

    Shape: (..., T) -> (..., T').
    """
    spectrum = torch.view_as_real(torch.fft.rfft(signal))
    bins = samples // 2 + 1
    fitted = torch.view_as_complex(functional.pad(spectrum, (0, 0, 0, bins - spectrum.shape[-2])))
    resampled: Tensor = torch.fft.irfft(fitted, samples) * (samples / signal.shape[-1])
    return resampled
