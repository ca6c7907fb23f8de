"""BSS Eval version 4, by the definition of museval: SDR, ISR, SIR and SAR in frames.

Vincent, Gribonval, Fevotte: Performance measurement in blind audio source separation. IEEE TASLP
14(4), 2006; Stoter, Liutkus, Ito: The 2018 signal separation evaluation campaign. LVA/ICA 2018.

An estimate e of a stem s is taken apart by least squares over a whole track: P_own is its part that
a filter of the stem's own channels gives, P_all that of filters of all stems. In each frame, of
which nothing before and after is heard,

    SDR = |s|^2 / |e - s|^2             ISR = |s|^2 / |P_own - s|^2
    SIR = |P_own|^2 / |P_all - P_own|^2    SAR = |P_all|^2 / |e - P_all|^2

The filters come from correlations, summed up frame by frame; as they are the same in all frames,
the energies are taken where the filters are products, in the frequency domain (Parseval), and
nothing is transformed back.

Letters: S stems, C channels, T samples, K = S * C references, L taps, F bins, N frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stemsplit.errors import UsageError

TAPS = 512
_BATCH_SAMPLES = 2**18
"""What is transformed together, per channel: memory stays small."""


class BssEval(NamedTuple):
    """Scores in dB, a row for each stem and a column for each frame. Shape of each: (S, N).

    A frame in which any reference or any estimate is silent has none: NaN in all of its column.
    """

    sdr: Tensor
    isr: Tensor
    sir: Tensor
    sar: Tensor


def bss_eval(
    references: Tensor,
    estimates: Tensor,
    *,
    window: int = 44100,
    hop: int = 44100,
    taps: int = TAPS,
) -> BssEval:
    """Score estimates frame by frame.

    Args:
        references: The true stems. Shape (S, C, T).
        estimates: In the same order. Shape (S, C, T).
        window: Length of a frame, in samples. What is left at the end, shorter than a frame, is not
            scored; a song shorter than a frame is one frame.
        hop: From one frame to the next, in samples.
        taps: Length of the filters.

    Returns:
        The scores. Silent is where the channels' sum is zero throughout.

    Raises:
        UsageError: Shapes that do not fit, or no samples.
    """
    if references.dim() != 3 or references.shape != estimates.shape or references.numel() == 0:
        raise UsageError(
            f"references of shape {tuple(references.shape)} and estimates of shape "
            f"{tuple(estimates.shape)} cannot be compared",
            help="give the same (stems, channels, samples) of both, and at least one sample.",
        )
    if min(window, hop, taps) < 1:
        raise UsageError(
            f"a window of {window}, a hop of {hop} and {taps} taps are not possible",
            help="give 1 or more samples of each.",
        )
    both = torch.stack((references.detach().cpu(), estimates.detach().cpu())).double()
    stems = references.shape[0]
    filters = _find_filters(both.flatten(1, 2), stems, taps)
    columns = [
        _score_frames(frames, filters)
        for frames in _cut_frames(both, min(window, both.shape[-1]), hop)
    ]
    return BssEval(*torch.cat(columns, dim=-1).unbind(0))


class _Filters(NamedTuple):
    """What projects references onto estimates: taps of an output's channels, by input and stem.

    Attributes:
        of_all: Every stem's channels from all references. Shape (K, L, S, C).
        of_own: The same from its own references. Shape (C, L, S, C).
    """

    of_all: Tensor
    of_own: Tensor


def _find_filters(both: Tensor, stems: int, taps: int) -> _Filters:
    """Solve the normal equations of the whole track. Shape of both: (2, K, T)."""
    gram, cross = _correlate(both, taps)
    count = gram.shape[0]
    channels = count // stems
    of_all = _solve(gram, cross).unflatten(0, (count, taps)).unflatten(2, (stems, channels))
    parts = []
    for stem in range(stems):
        own = slice(stem * channels, (stem + 1) * channels)
        part = _solve(gram[own, own], cross[own, own])
        parts.append(part.unflatten(0, (channels, taps)))
    return _Filters(of_all, torch.stack(parts, dim=2))


def _correlate(both: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """Return sum_n x[n] y[n + k] of references x and y, and of references x and estimates y.

    Shape: (2, K, T) -> twice (K, K, L), k from 0 to L - 1.
    """
    length = _find_fast_length(max(8 * taps, 2**15))
    step = length - taps + 1
    everything = both.flatten(0, 1)
    count = both.shape[1]
    total = torch.zeros(length // 2 + 1, count, 2 * count, dtype=torch.complex128)
    blocks = max(1, _BATCH_SAMPLES // length)
    for start in range(0, both.shape[-1], blocks * step):
        # Each block of y is heard on for as long as x, delayed, may meet it.
        piece = everything[:, start : start + blocks * step + taps - 1]
        missing = -(piece.shape[-1] - taps + 1) % step
        later = torch.nn.functional.pad(piece, (0, missing)).unfold(1, length, step)
        first = torch.fft.rfft(later[:count, :, :step], length).permute(2, 0, 1)
        second = torch.fft.rfft(later, length).permute(2, 1, 0)
        total.baddbmm_(first.conj(), second)
    sums = torch.fft.irfft(total.permute(1, 2, 0), length)[..., :taps]
    return sums[:, :count], sums[:, count:]


def _solve(gram: Tensor, cross: Tensor) -> Tensor:
    """Solve for the filters. Shape: (K, K, L), (K, M, L) -> (K * L, M)."""
    count, _, taps = gram.shape
    lags = torch.arange(taps)
    lags = lags[:, None] - lags
    # R_ij(-k) = R_ji(k).
    matrix = torch.where(lags >= 0, gram[..., lags.abs()], gram.transpose(0, 1)[..., lags.abs()])
    matrix = matrix.transpose(1, 2).reshape(count * taps, count * taps)
    matrix.diagonal().add_(torch.finfo(torch.float64).eps)
    wanted = cross.transpose(1, 2).reshape(count * taps, -1)
    try:
        solution = np.linalg.solve(matrix.numpy(), wanted.numpy())
    except np.linalg.LinAlgError:
        # Two channels are the same: the shortest filters of all that fit.
        solution = np.linalg.lstsq(matrix.numpy(), wanted.numpy())[0]
    return torch.from_numpy(solution)


def _cut_frames(both: Tensor, window: int, hop: int) -> Iterator[Tensor]:
    """Yield a few frames at a time. Shape: (2, S, C, T) -> (2, S, C, n, window)."""
    frames = both.unfold(-1, window, hop)
    yield from frames.split(max(1, _BATCH_SAMPLES // window), dim=3)


def _score_frames(frames: Tensor, filters: _Filters) -> Tensor:
    """Score frames. Shape: (2, S, C, n, window) -> (4, S, n)."""
    stems, channels, window = frames.shape[1], frames.shape[2], frames.shape[-1]
    taps = filters.of_all.shape[1]
    length = _find_fast_length(window + taps - 1)
    true, heard = torch.fft.rfft(frames, length).flatten(1, 2).permute(0, 3, 1, 2)
    of_all = torch.fft.rfft(filters.of_all, length, dim=1).permute(1, 2, 3, 0).flatten(1, 2)
    of_own = torch.fft.rfft(filters.of_own, length, dim=1).permute(1, 2, 3, 0)
    from_all = of_all @ true
    from_own = (of_own @ true.unflatten(1, (stems, channels))).flatten(1, 2)

    def measure(spectra: Tensor) -> Tensor:
        """Shape: (F, K, n) -> (S, n)."""
        powers = torch.view_as_real(spectra).square().sum(dim=-1)
        powers[1 : (length + 1) // 2] *= 2
        energies: Tensor = powers.sum(dim=0).unflatten(0, (stems, channels)).sum(dim=1)
        return energies / length

    energy = frames[0].square().sum(dim=(1, 3))
    error = (frames[1] - frames[0]).square().sum(dim=(1, 3))
    scores = torch.stack(
        (
            _to_db(energy, error),
            _to_db(energy, measure(from_own - true)),
            _to_db(measure(from_own), measure(from_all - from_own)),
            _to_db(measure(from_all), measure(heard - from_all)),
        )
    )
    is_silent = (frames.sum(dim=2) == 0).all(dim=-1).flatten(0, 1).any(dim=0)
    return scores.masked_fill(is_silent, torch.nan)


def _to_db(wanted: Tensor, rest: Tensor) -> Tensor:
    ratio = 10 * torch.log10(wanted / rest)
    return ratio.masked_fill(rest == 0, torch.inf)


def _find_fast_length(least: int) -> int:
    """Return the next length without prime factors above 5, which transforms fast."""
    length = least
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1
