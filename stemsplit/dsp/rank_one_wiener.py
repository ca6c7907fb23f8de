"""D3Net's multichannel Wiener filter: nothing is added to the covariances that it inverts.

The same share of the mixture as in `stemsplit.dsp.wiener`, v_j R_j (sum_i v_i R_i)^-1 x, but where
a covariance has next to no determinant it is taken for a matrix of rank one, and its
pseudo-inverse C^H / ||C||^2 used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stemsplit.dsp.wiener import Wiener

# No bin knows of another: a few at a time is the same, in a fraction of the memory.
BINS_AT_ONCE = 256
LEAST_DETERMINANT = 1e-10
LEAST_SUM = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class RankOneWiener(Wiener):
    """The filter over stereo estimates, with the authors' constants; others as `Wiener` does.

    Attributes:
        floor: Share of a stem's greatest power that is added to its power everywhere.
    """

    floor: float = 1e-10

    def _filter_window(self, estimates: Tensor, mixture: Tensor, refined: Tensor) -> None:
        if mixture.shape[1] != 2 or self.softmask:
            super()._filter_window(estimates, mixture, refined)
            return
        for _ in range(self.iterations):
            self._share(estimates, mixture, refined)
            estimates = refined

    def _share(self, estimates: Tensor, mixture: Tensor, refined: Tensor) -> None:
        """Shape: (B, S, C, F, N), (B, C, F, N), (B, S, C, F, N)."""
        work = torch.complex128 if self.is_double else torch.complex64
        loudest = torch.view_as_real(estimates).square().sum(dim=-1).mean(dim=2)
        floor = self.floor * loudest.amax(dim=(2, 3), keepdim=True).to(work.to_real())
        for start in range(0, mixture.shape[2], BINS_AT_ONCE):
            bins = slice(start, start + BINS_AT_ONCE)
            x = mixture[:, :, bins].to(work)
            refined[:, :, :, bins] = _share_bins(estimates[:, :, :, bins].to(work), x, floor)


def _share_bins(y: Tensor, x: Tensor, floor: Tensor) -> Tensor:
    """Filter a few bins.

    Args:
        y: Estimates, complex. Shape (B, S, 2, F, N).
        x: The mixture, complex. Shape (B, 2, F, N).
        floor: Shape (B, S, 1, 1).

    Returns:
        Shape (B, S, 2, F, N).
    """
    power = torch.view_as_real(y).square().sum(dim=-1).mean(dim=2) + floor
    weight = power.sum(dim=-1) + LEAST_SUM
    left, right = y.unbind(dim=2)
    # R_j, Hermitian. Shape of each entry: (B, S, F, 1).
    first, second, cross = (
        ((one * other.conj()).sum(dim=-1) / weight).unsqueeze(-1)
        for one, other in ((left, left), (right, right), (left, right))
    )
    # C = sum_j v_j R_j. Shape of each entry: (B, F, N).
    a, d, b = ((power * entry).sum(dim=1) for entry in (first, second, cross))
    determinant = a * d - b * b.conj()
    frobenius = a.abs().square() + d.abs().square() + 2 * b.abs().square() + LEAST_SUM
    is_full = determinant.abs() >= LEAST_DETERMINANT
    z_left, z_right = (
        torch.where(is_full, inverse / determinant, pseudo / frobenius)
        for inverse, pseudo in (
            (d * x[:, 0] - b * x[:, 1], a * x[:, 0] + b * x[:, 1]),
            (a * x[:, 1] - b.conj() * x[:, 0], b.conj() * x[:, 0] + d * x[:, 1]),
        )
    )
    z_left, z_right = z_left.unsqueeze(1), z_right.unsqueeze(1)
    return torch.stack(
        (
            power * (first * z_left + cross * z_right),
            power * (cross.conj() * z_left + second * z_right),
        ),
        dim=2,
    )
