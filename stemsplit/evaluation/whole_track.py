"""Scores of a whole track: one number for a stem, without frames and without filters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stemsplit.errors import UsageError

USDR_FLOOR = 1e-7
"""Added to both energies, as in the Music Demixing Challenge: what is silent scores, too."""

_PIECE_SAMPLES = 1 << 20


def usdr(reference: Tensor, estimate: Tensor) -> float:
    """Return the signal-to-distortion ratio of the whole track, in dB.

    Mitsufuji et al.: Music Demixing Challenge 2021. Frontiers in Signal Processing 1, 2022:
    10 log10((sum s^2 + 1e-7) / (sum (s - e)^2 + 1e-7)), the sums over samples and channels.
    "uSDR" is what later papers call it. A silent stem with a silent estimate has 0 dB.

    Args:
        reference: The true stem, full scale at 1. Shape (C, T).
        estimate: Shape (C, T).

    Raises:
        UsageError: Shapes that differ, no samples, or samples that are not finite.
    """
    _check(reference, estimate)
    energy = error = 0.0
    for start in range(0, reference.shape[-1], _PIECE_SAMPLES):
        piece = slice(start, start + _PIECE_SAMPLES)
        true, heard = reference[:, piece].double(), estimate[:, piece].double()
        energy += float(true.square().sum())
        error += float((true - heard).square().sum())
    return 10 * math.log10((energy + USDR_FLOOR) / (error + USDR_FLOOR))


def si_sdr(reference: Tensor, estimate: Tensor) -> float:
    """Return the scale-invariant signal-to-distortion ratio of the whole track, in dB.

    Le Roux, Wisdom, Erdogan, Hershey: SDR - half-baked or well done? ICASSP 2019, eq. 3:
    10 log10(|a s|^2 / |a s - e|^2) with a = <e, s> / |s|^2, of signals whose mean is zero: it is
    subtracted. The definition is for one channel; more are scored one by one, and their mean is
    given, without channels in which the reference is silent.

    Args:
        reference: The true stem. Shape (C, T).
        estimate: Shape (C, T).

    Returns:
        The ratio; NaN where the reference is silent, infinite where the estimate is a multiple of
        it, minus infinity where it has nothing of it.

    Raises:
        UsageError: Shapes that differ, no samples, or samples that are not finite.
    """
    _check(reference, estimate)
    scores = []
    for true, heard in zip(reference, estimate, strict=True):
        true, heard = true.double(), heard.double()
        true, heard = true - true.mean(), heard - heard.mean()
        energy = float(true @ true)
        if energy == 0:
            continue
        target = true * (float(true @ heard) / energy)
        wanted, rest = float(target @ target), float((target - heard).square().sum())
        if wanted == 0 or rest == 0:
            scores.append(-math.inf if wanted == 0 else math.inf)
        else:
            scores.append(10 * math.log10(wanted / rest))
    return sum(scores) / len(scores) if scores else math.nan


def _check(reference: Tensor, estimate: Tensor) -> None:
    if reference.dim() != 2 or reference.shape != estimate.shape or reference.numel() == 0:
        raise UsageError(
            f"a reference of shape {tuple(reference.shape)} and an estimate of shape "
            f"{tuple(estimate.shape)} cannot be compared",
            help="give the same (channels, samples) of both, and at least one sample.",
        )
    if not bool(torch.isfinite(reference).all() and torch.isfinite(estimate).all()):
        raise UsageError(
            "the reference or the estimate holds values that are not numbers (NaN or infinite)",
            help="look for what made them; silence is zeros.",
        )
