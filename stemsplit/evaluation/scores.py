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

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stemsplit.errors import UsageError

TAPS = 512

Both = Sequence[Sequence[Tensor]]
"""References and estimates: a (C, T) for each stem."""


class BssEval(NamedTuple):
    """Scores in dB, a row for each stem and a column for each frame. Shape of each: (S, N).

    A frame in which any reference or any estimate is silent has none: NaN in all of its column.
    """

    sdr: Tensor
    isr: Tensor
    sir: Tensor
    sar: Tensor


def bss_eval(
    references: Tensor | Sequence[Tensor],
    estimates: Tensor | Sequence[Tensor],
    *,
    window: int = 44100,
    hop: int = 44100,
    taps: int = TAPS,
) -> BssEval:
    """Score estimates frame by frame.

    Args:
        references: The true stems. Shape (S, C, T), or S of (C, T).
        estimates: In the same order. Shape (S, C, T), or S of (C, T).
        window: Length of a frame, in samples. What is left at the end, shorter than a frame, is not
            scored; a song shorter than a frame is one frame.
        hop: From one frame to the next, in samples.
        taps: Length of the filters.

    Returns:
        The scores. Silent is where the channels' sum is zero throughout.

    Raises:
        UsageError: Shapes that do not fit, no samples, or samples that are not finite.
    """
    # As they came, so that no song is held twice: what is computed with is double, in pieces.
    both = [[stem.detach().cpu() for stem in signals] for signals in (references, estimates)]
    shapes = {tuple(stem.shape) for signals in both for stem in signals}
    shape = next(iter(shapes), ())
    if len(shapes) != 1 or len(both[0]) != len(both[1]) or len(shape) != 2 or 0 in shape:
        told = [[tuple(stem.shape) for stem in signals] for signals in both]
        raise UsageError(
            f"references of shapes {told[0]} and estimates of shapes {told[1]} cannot be compared",
            help="give the same (stems, channels, samples) of both, and at least one sample.",
        )
    if min(window, hop, taps) < 1:
        raise UsageError(
            f"a window of {window}, a hop of {hop} and {taps} taps are not possible",
            help="give 1 or more samples of each.",
        )
    if not all(bool(torch.isfinite(stem).all()) for signals in both for stem in signals):
        raise UsageError(
            "references or estimates hold values that are not numbers (NaN or infinite)",
            help="look for what made them; silence is zeros.",
        )
    samples = shape[1]
    window = min(window, samples)
    filters = _find_filters(both, taps)
    meter = _Meter(filters, window)
    columns = []
    for start in range(0, samples - window + 1, hop):
        columns.append(meter.score(_cut(both, start, window)))
    return BssEval(*torch.stack(columns, dim=-1).unbind(0))


class _Filters(NamedTuple):
    """What projects references onto estimates: taps of an output's channels, by input and stem.

    Attributes:
        of_all: Every stem's channels from all references. Shape (K, L, S, C).
        of_own: The same from its own references. Shape (C, L, S, C).
    """

    of_all: Tensor
    of_own: Tensor


def _cut(both: Both, start: int, length: int) -> Tensor:
    """Return a piece of all signals; shorter at the end. Shape: (2, S, C, length)."""
    piece = slice(start, start + length)
    return torch.stack(
        [torch.stack([stem[:, piece] for stem in signals]) for signals in both]
    ).double()


def _find_filters(both: Both, taps: int) -> _Filters:
    """Solve the normal equations of the whole track."""
    stems = len(both[0])
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


def _correlate(both: Both, taps: int) -> tuple[Tensor, Tensor]:
    """Return sum_n x[n] y[n + k] of references x and y, and of references x and estimates y.

    Shape: twice S of (C, T) -> twice (K, K, L), k from 0 to L - 1.
    """
    length = _find_fast_length(max(8 * taps, 2**15))
    step = length - taps + 1
    channels, samples = both[0][0].shape
    count = len(both[0]) * channels
    total = torch.zeros(count, 2 * count, length // 2 + 1, dtype=torch.complex128)
    for start in range(0, samples, step):
        # What y is heard for as long as x, delayed, may meet it.
        piece = _cut(both, start, length).flatten(0, 2)
        later = torch.fft.rfft(piece, length)
        first = torch.fft.rfft(piece[:count, :step], length).conj_physical()
        for x, sums in zip(first, total, strict=True):
            sums.addcmul_(x, later)
    lags = torch.fft.irfft(total, length)[..., :taps]
    return lags[:, :count], lags[:, count:]


def _solve(gram: Tensor, cross: Tensor) -> Tensor:
    """Solve for the filters. Shape: (K, K, L), (K, M, L) -> (K * L, M)."""
    count, _, taps = gram.shape
    lags = torch.arange(taps)
    lags = lags - lags[:, None]
    matrix = torch.empty(count, taps, count, taps, dtype=torch.float64)
    for one in range(count):
        for other in range(count):
            # R_ij(-k) = R_ji(k).
            both_ways = torch.cat((gram[one, other].flip(0), gram[other, one, 1:]))
            matrix[one, :, other] = both_ways[lags + taps - 1]
    matrix = matrix.reshape(count * taps, count * taps)
    matrix.diagonal().add_(torch.finfo(torch.float64).eps)
    wanted = cross.transpose(1, 2).reshape(count * taps, -1)
    try:
        solution = np.linalg.solve(matrix.numpy(), wanted.numpy())
    except np.linalg.LinAlgError:
        # Two channels are the same: the shortest filters of all that fit.
        solution = np.linalg.lstsq(matrix.numpy(), wanted.numpy())[0]
    return torch.from_numpy(solution)


class _Meter:
    """Scores one frame after the other."""

    def __init__(self, filters: _Filters, window: int) -> None:
        channels, taps, stems = filters.of_own.shape[:3]
        self._shape = (stems, channels)
        self._length = _find_fast_length(window + taps - 1)
        of_all = torch.fft.rfft(filters.of_all.flatten(2), self._length, dim=1)
        of_own = torch.fft.rfft(filters.of_own, self._length, dim=1)
        # Inputs first, bins last: (K, K, F), (C, S, C, F).
        self._of_all = of_all.transpose(1, 2).contiguous()
        self._of_own = of_own.permute(0, 2, 3, 1).contiguous()

    def score(self, frame: Tensor) -> Tensor:
        """Shape: (2, S, C, window) -> (4, S)."""
        if (frame.sum(dim=2) == 0).all(dim=-1).any():
            return frame.new_full((4, self._shape[0]), torch.nan)
        true, heard = torch.fft.rfft(frame, self._length).flatten(1, 2)
        from_all = torch.zeros_like(true)
        for response, reference in zip(self._of_all, true, strict=True):
            from_all.addcmul_(response, reference)
        from_own = torch.zeros_like(true).unflatten(0, self._shape)
        for channel, response in enumerate(self._of_own):
            from_own.addcmul_(response, true.unflatten(0, self._shape)[:, channel, None])
        from_own = from_own.flatten(0, 1)
        energy = frame[0].square().sum(dim=(1, 2))
        error = (frame[1] - frame[0]).square().sum(dim=(1, 2))
        return torch.stack(
            (
                _to_db(energy, error),
                _to_db(energy, self._measure(from_own - true)),
                _to_db(self._measure(from_own), self._measure(from_all - from_own)),
                _to_db(self._measure(from_all), self._measure(heard.sub_(from_all))),
            )
        )

    def _measure(self, spectra: Tensor) -> Tensor:
        """Return energies by Parseval's theorem. Shape: (K, F) -> (S,)."""
        parts = torch.view_as_real(spectra).unflatten(0, self._shape)

        def add_up(some: Tensor) -> Tensor:
            total: Tensor = torch.linalg.vector_norm(some, dim=(1, 2, 3)).square()
            return total

        # Every bin is its mirror image, too, but the first and, of an even length, the last.
        alone = parts[:, :, :: parts.shape[2] - 1] if self._length % 2 == 0 else parts[:, :, :1]
        return (2 * add_up(parts) - add_up(alone)) / self._length


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
