"""The multichannel Wiener filter: all stems share the mixture anew, by their spatial covariances.

Expectation-maximisation for the local Gaussian model: Duong, Vincent, Gribonval: Under-determined
reverberant audio source separation using a full-rank spatial covariance model. IEEE TASLP 18(7),
2010; for networks: Nugraha, Liutkus, Vincent: Multichannel audio source separation with deep neural
networks. IEEE/ACM TASLP 24(9), 2016. With the constants of norbert or of Open-Unmix.

Letters: B batch, S stems, C channels, F bins, N frames.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

BINS_AT_ONCE = 256


@dataclass(frozen=True)
class Wiener:
    """The filter, with its constants; call it as a model's post-filter.

    Attributes:
        iterations: Of expectation-maximisation; 0 returns the estimates as they are.
        window_frames: How many frames share their statistics; None for all. 300 is Open-Unmix's.
        eps: Regularisation: 1e-10 is Open-Unmix's; None is the number type's own, norbert's.
        softmask: Begin with each stem's share of the summed magnitudes, instead of the estimates.
        residual: Add a stem, last: the mixture minus the sum of the estimates.
        ceiling: Louder spectrograms are scaled down to this magnitude while they are filtered.
        is_double: Compute in double precision. In single precision the inverse of a covariance of
            nearly one channel (a mono song) is mostly rounding.
    """

    iterations: int = 1
    window_frames: int | None = None
    eps: float | None = 1e-10
    softmask: bool = False
    residual: bool = False
    ceiling: float = 10.0
    is_double: bool = True

    def __call__(self, estimates: Tensor, mixture: Tensor) -> Tensor:
        """Refine the estimates of all stems of a mixture.

        Args:
            estimates: Complex. Shape (B, S, C, F, N).
            mixture: Complex. Shape (B, C, F, N).

        Returns:
            Shape (B, S, C, F, N), or S + 1 stems with a residual.
        """
        if self.residual:
            rest = mixture.unsqueeze(1) - estimates.sum(dim=1, keepdim=True)
            estimates = torch.cat((estimates, rest), dim=1)
        if self.iterations == 0 and not self.softmask:
            return estimates
        size = self.window_frames or max(1, mixture.shape[-1])
        windows = [
            self._filter_window(some, part)
            for some, part in zip(
                estimates.split(size, dim=-1), mixture.split(size, dim=-1), strict=True
            )
        ]
        return windows[0] if len(windows) == 1 else torch.cat(windows, dim=-1)

    def _filter_window(self, estimates: Tensor, mixture: Tensor) -> Tensor:
        loudest = mixture.abs().amax(dim=(1, 2, 3), keepdim=True)
        scale = (loudest / self.ceiling).clamp(min=1)
        filtered = torch.empty_like(estimates)
        # No bin knows of another: a few at a time is the same, in a fraction of the memory.
        for start in range(0, mixture.shape[2], BINS_AT_ONCE):
            bins = slice(start, start + BINS_AT_ONCE)
            part = self._filter_bins(estimates[:, :, :, bins], mixture[:, :, bins], scale)
            filtered[:, :, :, bins] = part
        return filtered

    def _filter_bins(self, estimates: Tensor, mixture: Tensor, scale: Tensor) -> Tensor:
        is_double = self.is_double and mixture.device.type != "mps"
        work = torch.complex128 if is_double else torch.complex64
        x = mixture.to(work) / scale
        y = estimates.to(work) / scale.unsqueeze(1)
        eps = torch.finfo(mixture.real.dtype).eps if self.eps is None else self.eps
        if self.softmask:
            magnitude = y.abs()
            y = magnitude / (magnitude.sum(dim=1, keepdim=True) + eps) * x.unsqueeze(1)
        for _ in range(self.iterations):
            y = maximise(y, x, eps)
        return y * scale.unsqueeze(1)


def maximise(estimates: Tensor, mixture: Tensor, eps: float) -> Tensor:
    """Run one iteration: power and spatial covariance of every stem, then its share of the mixture.

    With v_j(f, n) the mean over channels of |y_j|^2 and
    R_j(f) = sum_n y_j y_j^H / (eps + sum_n v_j), the new estimate is
    v_j R_j (sum_i v_i R_i + sqrt(eps) I)^-1 x.

    Args:
        estimates: y, complex. Shape (B, S, C, F, N).
        mixture: x, complex. Shape (B, C, F, N).
        eps: See `Wiener`.

    Returns:
        Shape (B, S, C, F, N).
    """
    stems, channels = estimates.shape[1:3]
    pairs = list(itertools.combinations_with_replacement(range(channels), 2))
    parts = torch.view_as_real(estimates)
    mixed = {
        (row, column): torch.full_like(mixture[:, 0], eps**0.5 if row == column else 0.0)
        for row, column in pairs
    }
    powers, covariances = [], []
    for stem in range(stems):
        y = estimates[:, stem]
        power = parts[:, stem].square().sum(dim=-1).mean(dim=1)
        weight = (power.sum(dim=-1) + eps).unsqueeze(-1)
        # Hermitian: the upper triangle says all. Shape of an entry: (B, F, 1).
        covariance = {
            (row, column): (y[:, row] * y[:, column].conj()).sum(dim=-1, keepdim=True) / weight
            for row, column in pairs
        }
        for pair in pairs:
            mixed[pair].addcmul_(power.to(mixture.dtype), covariance[pair])
        powers.append(power)
        covariances.append(covariance)
    z = _solve(mixed, mixture)
    # y_j = v_j R_j z, with z the mixture seen through the inverse: no matrix per stem and frame.
    refined = torch.empty_like(estimates)
    for stem, (power, covariance) in enumerate(zip(powers, covariances, strict=True)):
        for row in range(channels):
            share = torch.zeros_like(z[:, 0])
            for column in range(channels):
                upper = (min(row, column), max(row, column))
                entry = covariance[upper] if row <= column else covariance[upper].conj()
                share.addcmul_(entry, z[:, column])
            refined[:, stem, row] = share.mul_(power)
    return refined


def _solve(matrix: dict[tuple[int, int], Tensor], vector: Tensor) -> Tensor:
    """Solve a Hermitian system per bin and frame; the upper triangle is given.

    Args:
        matrix: Entries by row and column. Shape (B, F, N) each.
        vector: Shape (B, C, F, N).

    Returns:
        Shape (B, C, F, N).
    """
    channels = vector.shape[1]
    if channels == 1:
        return vector / matrix[0, 0].real.unsqueeze(1)
    if channels == 2:
        first, second, cross = matrix[0, 0].real, matrix[1, 1].real, matrix[0, 1]
        determinant = first * second - torch.view_as_real(cross).square().sum(dim=-1)
        left, right = vector.unbind(dim=1)
        solved = (second * left - cross * right, first * right - cross.conj() * left)
        return torch.stack(solved, dim=1) / determinant.unsqueeze(1)
    rows = [
        torch.stack(
            [matrix[r, c] if r <= c else matrix[c, r].conj() for c in range(channels)], dim=-1
        )
        for r in range(channels)
    ]
    system = torch.stack(rows, dim=-2)
    solution: Tensor = torch.linalg.solve(system, vector.movedim(1, -1))
    return solution.movedim(-1, 1)
