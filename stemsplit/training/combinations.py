"""Losses on sums of stems, over every selection of them: X-UMX's combination scheme.

Sawata, Uhlich, Takahashi, Mitsufuji: All for one and one for all: improving music separation by
bridging networks. ICASSP 2021, section 3.2. A selection has from one stem to all but one. The
published code makes the signals of all 14 selections of four stems; here each value follows from
products of the stems themselves, however many selections there are.

Letters in shapes: B batch, S stems, C channels, T samples, F bins, N frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-10


def combine_magnitude_mse(estimates: Tensor, stems: Tensor) -> Tensor:
    """Return the mean, over all selections, of the squared error of the sum of their magnitudes.

    With e_s the error of stem s, a the number of selections that hold a stem and b of those that
    hold two given ones, the sum over selections of |sum e_s|^2 is
    (a - b) sum |e_s|^2 + b |sum e_s|^2.

    Args:
        estimates: Shape (B, S, ...).
        stems: The same shape.
    """
    count = stems.shape[1]
    wrong = estimates - stems
    if count == 1:
        alone: Tensor = wrong.square().mean()
        return alone
    with_one, with_two = 2 ** (count - 1) - 1, 2 ** (count - 2) - 1
    each = wrong.square().mean() * count
    together = wrong.sum(dim=1).square().mean()
    total = (with_one - with_two) * each + with_two * together
    mean: Tensor = total / (2**count - 2)
    return mean


def combine_sdr(mixture: Tensor, estimates: Tensor, stems: Tensor) -> Tensor:
    """Return 1 minus the weighted SDR, averaged over all selections, items and channels.

    Of a selection with sum t, estimate p and mixture m: a cos(t, p) + (1 - a) cos(m - t, m - p),
    where a = |t|^2 / (|t|^2 + |m - t|^2): section 3.1, after Choi et al., ICLR 2019. 0 is perfect.

    Args:
        mixture: Shape (B, C, T).
        estimates: Shape (B, S, C, T).
        stems: Shape (B, S, C, T).
    """
    picks = list_selections(stems.shape[1], mixture)
    # What lacks of the mixture stands beside the stems: the rest of a selection is then a sum of
    # signals, too, and not a small difference of large ones.
    true = torch.cat((stems, (mixture - stems.sum(1)).unsqueeze(1)), dim=1).transpose(1, 2)
    given = torch.cat((estimates, (mixture - estimates.sum(1)).unsqueeze(1)), dim=1).transpose(1, 2)
    across = true @ given.transpose(2, 3)
    of_true = true @ true.transpose(2, 3)
    of_given = given @ given.transpose(2, 3)
    rest = 1 - picks
    energy, energy_rest = _fold(of_true, picks), _fold(of_true, rest)
    share = energy / (energy + energy_rest + EPS)
    cosine = _fold(across, picks, signed=True) / _root(energy, _fold(of_given, picks))
    cosine_rest = _fold(across, rest, signed=True) / _root(energy_rest, _fold(of_given, rest))
    return 1 - (share * cosine + (1 - share) * cosine_rest).mean()


def list_selections(count: int, like: Tensor) -> Tensor:
    """Return which of the stems each selection holds, and 0 for what belongs to none of them.

    One stem alone has one selection: itself.

    Shape: (2 ** S - 2, S + 1), of zeros and ones.
    """
    numbers = torch.arange(1, max(2**count - 1, 2), device=like.device)
    held = (numbers.unsqueeze(1) >> torch.arange(count + 1, device=like.device)) & 1
    return held.to(like.dtype)


def _fold(products: Tensor, picks: Tensor, *, signed: bool = False) -> Tensor:
    """Sum the products of all that a selection holds. Shape: (B, C, V, V) -> (B, C, selections)."""
    sums = torch.einsum("kv,bcvw,kw->bck", picks, products, picks)
    # A sum of squares, which rounding may bring below zero.
    return sums if signed else sums.clamp(min=0)


def _root(left: Tensor, right: Tensor) -> Tensor:
    return (left + EPS).sqrt() * (right + EPS).sqrt() + EPS
