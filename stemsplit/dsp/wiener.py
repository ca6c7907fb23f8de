"""The multichannel Wiener filter: all stems share the mixture anew, by their spatial covariances.

Expectation-maximisation for the local Gaussian model: Duong, Vincent, Gribonval: Under-determined
reverberant audio source separation using a full-rank spatial covariance model. IEEE TASLP 18(7),
2010; for networks: Nugraha, Liutkus, Vincent: Multichannel audio source separation with deep neural
networks. IEEE/ACM TASLP 24(9), 2016. With the constants of norbert or of Open-Unmix.

Letters: B batch, S stems, C channels, F bins, N frames.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Frames that are computed at once: on a processor, about what its caches hold of all stems.
FRAMES_AT_ONCE = 16
FRAMES_AT_ONCE_ON_GPU = 512

Matrix = dict[tuple[int, int], tuple[Tensor, Tensor]]
"""A Hermitian matrix for every bin: real and imaginary part of entries by row and column."""


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
        is_double: Compute covariances and their inverse in double precision. In single precision
            the inverse of a covariance of nearly one channel (a mono song) is mostly rounding.
        is_in_place: Write over the estimates, which takes half of the memory.
    """

    iterations: int = 1
    window_frames: int | None = None
    eps: float | None = 1e-10
    softmask: bool = False
    residual: bool = False
    ceiling: float = 10.0
    is_double: bool = True
    is_in_place: bool = False

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
        refined = estimates if self.is_in_place else torch.empty_like(estimates)
        size = self.window_frames or mixture.shape[-1]
        for start in range(0, mixture.shape[-1], size):
            frames = slice(start, start + size)
            self._filter_window(estimates[..., frames], mixture[..., frames], refined[..., frames])
        return refined

    def _filter_window(self, estimates: Tensor, mixture: Tensor, refined: Tensor) -> None:
        loudest = mixture.real.square().addcmul_(mixture.imag, mixture.imag).amax(dim=(1, 2, 3))
        scale = (loudest.sqrt() / self.ceiling).clamp(min=1)
        eps = torch.finfo(mixture.real.dtype).eps if self.eps is None else self.eps
        is_double = self.is_double and mixture.device.type != "mps"
        work = torch.float64 if is_double else mixture.real.dtype
        if self.softmask:
            magnitude = estimates.abs()
            total = magnitude.sum(dim=1, keepdim=True) + eps * scale.view(-1, 1, 1, 1, 1)
            estimates = refined.copy_(magnitude / total * mixture.unsqueeze(1))
        for _ in range(self.iterations):
            maximise(estimates, mixture, eps, scale.to(work), refined)
            estimates = refined


def maximise(
    estimates: Tensor, mixture: Tensor, eps: float, scale: Tensor, refined: Tensor
) -> None:
    """Run one iteration: power and spatial covariance of every stem, then its share of the mixture.

    With v_j(f, n) the mean over channels of |y_j|^2 and
    R_j(f) = sum_n y_j y_j^H / (eps + sum_n v_j), the new estimate is
    v_j R_j (sum_i v_i R_i + sqrt(eps) I)^-1 x.

    To divide x and y by a scale s before and to multiply by it afterwards is to put s^2 eps and
    s^2 sqrt(eps) there, which takes no pass over the spectrograms.

    Args:
        estimates: y, complex. Shape (B, S, C, F, N).
        mixture: x, complex. Shape (B, C, F, N).
        eps: See `Wiener`.
        scale: s, in the numbers that covariances and their inverse are computed in. Shape (B,).
        refined: Gets the new estimates; may be the old ones. Shape (B, S, C, F, N).
    """
    square = scale.square().view(-1, 1, 1, 1)
    covariances = _find_covariances(estimates, eps * square)
    for frames in _split_frames(mixture):
        y = _take_planes(estimates[..., frames], scale.dtype)
        x = _take_planes(mixture[..., frames], scale.dtype)
        power = _add_powers(y)
        z = _solve(_mix(power, covariances, eps**0.5 * square.squeeze(1)), x)
        share = _share(power, covariances, z, estimates.real.dtype)
        torch.complex(*share, out=refined[..., frames].transpose(-1, -2))


def _split_frames(spectrum: Tensor) -> Iterator[slice]:
    size = FRAMES_AT_ONCE if spectrum.device.type == "cpu" else FRAMES_AT_ONCE_ON_GPU
    for start in range(0, spectrum.shape[-1], size):
        yield slice(start, start + size)


def _take_planes(spectrum: Tensor, dtype: torch.dtype) -> Tensor:
    """Part real from imaginary: sums and products of whole arrays are faster than of pairs.

    Bins come last, as they lie in memory. Shape: (..., F, N) -> (2, ..., N, F).
    """
    parts = torch.view_as_real(spectrum.transpose(-1, -2)).movedim(-1, 0)
    return torch.empty(parts.shape, dtype=dtype, device=parts.device).copy_(parts)


def _add_powers(y: Tensor) -> Tensor:
    """Return C v_j, the sum over channels. Shape: (2, B, S, C, N, F) -> (B, S, N, F)."""
    power = torch.zeros_like(y[0, :, :, 0])
    for part in y.unbind(0):
        for channel in part.unbind(2):
            power.addcmul_(channel, channel)
    return power


def _find_covariances(estimates: Tensor, eps: Tensor) -> Matrix:
    """Return R_j / C, so that it may be multiplied by C v_j; both triangles.

    Args:
        estimates: y, complex. Shape (B, S, C, F, N).
        eps: In the numbers to compute in. Shape (B, 1, 1, 1).

    Returns:
        Shape of a part of an entry: (B, S, 1, F).
    """
    channels = estimates.shape[2]
    pairs = list(itertools.combinations_with_replacement(range(channels), 2))
    totals: dict[tuple[int, int], Tensor] = {}
    for frames in _split_frames(estimates):
        y = _take_planes(estimates[..., frames], eps.dtype)
        if not totals:
            totals = {pair: torch.zeros_like(y[:, :, :, 0]) for pair in pairs}
        for (row, column), total in totals.items():
            # Frame on frame of the blocks before, and a sum over what that gives: fewer passes.
            real, imaginary = total[..., : y.shape[-2], :].unbind(0)
            left, right = y[:, :, :, row], y[:, :, :, column]
            real.addcmul_(left[0], right[0]).addcmul_(left[1], right[1])
            if row != column:
                imaginary.addcmul_(left[1], right[0]).addcmul_(left[0], right[1], value=-1)
    sums = {pair: total.sum(dim=-2, keepdim=True) for pair, total in totals.items()}
    weight = channels * eps + sum(sums[channel, channel][0] for channel in range(channels))
    matrix: Matrix = {}
    for (row, column), total in sums.items():
        real, imaginary = (total / weight).unbind(0)
        matrix[column, row] = real, -imaginary
        matrix[row, column] = real, imaginary
    return matrix


def _mix(power: Tensor, covariances: Matrix, ridge: Tensor) -> Matrix:
    """Return sum_i v_i R_i + ridge I: its upper triangle.

    Args:
        power: C v_j. Shape (B, S, N, F).
        covariances: R_j / C.
        ridge: Shape (B, 1, 1).

    Returns:
        Shape of a part of an entry: (B, N, F).
    """
    mixed: Matrix = {}
    for (row, column), parts in covariances.items():
        if row > column:
            continue
        sums = torch.zeros_like(power[:, 0]), torch.zeros_like(power[:, 0])
        if row == column:
            sums[0].add_(ridge)
        for total, part in zip(sums, parts, strict=True):
            for stem in range(power.shape[1]):
                total.addcmul_(power[:, stem], part[:, stem])
        mixed[row, column] = sums
    return mixed


def _solve(matrix: Matrix, x: Tensor) -> Tensor:
    """Solve a Hermitian system per bin and frame; the upper triangle is given.

    Args:
        matrix: Shape of a part of an entry: (B, N, F).
        x: Shape (2, B, C, N, F).

    Returns:
        Shape (2, B, C, N, F).
    """
    channels = x.shape[2]
    if channels == 1:
        return x / matrix[0, 0][0].unsqueeze(1)
    if channels == 2:
        return _solve_stereo(matrix, x)
    rows = []
    for row in range(channels):
        before = [torch.complex(*matrix[column, row]).conj() for column in range(row)]
        after = [torch.complex(*matrix[row, column]) for column in range(row, channels)]
        rows.append(torch.stack((*before, *after), dim=-1))
    vector = torch.complex(x[0], x[1]).movedim(1, -1)
    solved = torch.linalg.solve(torch.stack(rows, dim=-2), vector).movedim(-1, 1)
    return torch.view_as_real(solved).movedim(-1, 0)


def _solve_stereo(matrix: Matrix, x: Tensor) -> Tensor:
    """Do the same for two channels, by the matrix of cofactors over the determinant."""
    first, second, (real, imaginary) = matrix[0, 0][0], matrix[1, 1][0], matrix[0, 1]
    determinant = (first * second).addcmul_(real, real, value=-1)
    determinant.addcmul_(imaginary, imaginary, value=-1)
    z = torch.empty_like(x)
    for part, sign in ((0, 1), (1, -1)):
        (left, right), (turned_left, turned_right) = x[part].unbind(1), x[1 - part].unbind(1)
        z_left, z_right = z[part].unbind(1)
        torch.mul(second, left, out=z_left).addcmul_(real, right, value=-1)
        z_left.addcmul_(imaginary, turned_right, value=sign).div_(determinant)
        torch.mul(first, right, out=z_right).addcmul_(real, left, value=-1)
        z_right.addcmul_(imaginary, turned_left, value=-sign).div_(determinant)
    return z


def _share(power: Tensor, covariances: Matrix, z: Tensor, dtype: torch.dtype) -> Tensor:
    """Return v_j R_j z, with z the mixture seen through the inverse: no matrix per stem and frame.

    Args:
        power: C v_j. Shape (B, S, N, F).
        covariances: R_j / C.
        z: Shape (2, B, C, N, F).
        dtype: Of the result, and to compute in: behind the inverse, single precision is enough
            where the estimates have no more.

    Returns:
        Shape (2, B, S, C, N, F).
    """
    z = z.to(dtype).unsqueeze(2)
    batch, stems, frames, bins = power.shape
    share = z.new_zeros(2, batch, stems, z.shape[3], frames, bins)
    for (row, column), (real, imaginary) in covariances.items():
        for part, sign in ((0, -1), (1, 1)):
            total = share[part, :, :, row]
            total.addcmul_(real.to(dtype), z[part, :, :, column])
            if row != column:
                total.addcmul_(imaginary.to(dtype), z[1 - part, :, :, column], value=sign)
    return share.mul_(power.to(dtype).unsqueeze(2))
