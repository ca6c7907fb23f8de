"""Matrices over frequency, with the norm and the activation behind them.

Torch multiplies rows of bins, which images of a U-Net would have to be turned for, and turns
the weights for every few frames; norm, activation and a stem's share are then as many passes over
what came out. Here a frame whose channels lie side by side is taken as it lies, and all of that is
done where a number is computed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

from stemsplit.backends.folding import read_affine
from stemsplit.backends.native.library import Library, Matrix
from stemsplit.dsp.memory import new_empty
from stemsplit.dsp.threads import run_shares

MOST_LOWERED = 1 << 18
"""Numbers in a matrix that is multiplied in C even where torch would do it in bf16: to make images
bf16 and float32 again takes what is saved."""
FEWEST_PRODUCTS = 1 << 20
"""For a thread."""
OUTS_AT_ONCE = 8
"""That C computes, or half as many: threads share these."""


class Mixed(Protocol):
    """What a module says of itself. See `stemsplit.models.blocks.fusion`."""

    linear: nn.Linear
    norm: nn.Module
    activation: nn.Module


@runtime_checkable
class HasMatrix(Protocol):
    """A module that is one matrix over frequency and what is behind it."""

    def matrix(self) -> Mixed:
        """Return its pieces."""


def fits_matrix(norm: nn.Module, linear: nn.Linear, library: Library) -> TypeGuard[nn.BatchNorm2d]:
    """Tell whether `NativeMatrix` can and should compute a layer with this norm behind it.

    It can where a pixel's channels are whole vectors. Where a processor has longer ones than it
    works with, or a unit for matrices (Apple's), torch's products use them.
    """
    return (
        isinstance(norm, nn.BatchNorm2d)
        and norm.running_mean is not None
        and norm.num_features % library.patch_lanes == 0
        and library.lanes == library.patch_lanes
        and sys.platform != "darwin"
        and all(one.dtype == torch.float32 and one.is_contiguous() for one in linear.parameters())
    )


class NativeMatrix(nn.Module):
    """A matrix over frequency on a processor, in float32, for inference. bf16 is made that first.

    Shape: (B, C, N, F_in) -> (B, C, N, F_out), channels last in memory.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, library: Library, linear: nn.Linear, norm: nn.BatchNorm2d, slope: float
    ) -> None:
        """Take a layer's weights as they lie.

        Args:
            library: What computes.
            linear: In float32; is kept.
            norm: What `fits_matrix` takes, with that; left as it is.
            slope: Of the activation behind it, below zero: 1 is none, 0 a ReLU.
        """
        super().__init__()
        self._library = library
        self.linear = linear
        affine = read_affine(norm)
        self.register_buffer("scale", affine.scale.float())
        self.register_buffer("shift", affine.shift.float())
        self._slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, N, F_in) -> (B, C, N, F_out)."""
        return self._multiply(x, [None] * len(x))

    def sum_latents(self, attention: Tensor, songs: int) -> Callable[[Tensor], Tensor]:
        """Return what makes spectra of latent sources and sums them for each stem.

        See `stemsplit.models.blocks.intermediate.LinearLayer`.

        Args:
            attention: How much each stem takes of each of them. Shape (S, L).
            songs: B.

        Returns:
            Takes (B or B * S, C, N, F_in), gives (B * S, C, N, F_out / L).
        """
        shares = attention.detach().float().contiguous()

        def work(x: Tensor) -> Tensor:
            stems = len(shares) if len(x) == songs else 1
            return self._multiply(x, list(shares.split(stems)) * songs)

        return work

    def _multiply(self, x: Tensor, shares: Sequence[Tensor | None]) -> Tensor:
        """Compute for each image one, or one for each row of its shares.

        Args:
            x: Shape (B, C, N, F_in).
            shares: B times (S, L), or None.

        Returns:
            Shape (B * S, C, N, F_out / L); (B, C, N, F_out) without shares.

        Raises:
            ValueError: The images are none that this layer takes.
        """
        x = x.float() if x.dtype == torch.bfloat16 else x
        _, channels, frames, bins = x.shape
        weight, bias = self.linear.weight, self.linear.bias
        if x.dtype != torch.float32 or (channels, bins) != (len(self.scale), weight.shape[1]):
            raise ValueError(
                f"{len(self.scale)} channels of float32, of {weight.shape[1]} bins, are what goes "
                f"in, not {tuple(x.shape)} of {x.dtype}"
            )
        if x.stride(1) != 1 or x.stride(3) != channels:
            turned = x.permute(0, 2, 3, 1)
            x = new_empty(x, turned.shape).copy_(turned).permute(0, 3, 1, 2)
        stems, parts = (1, 1) if shares[0] is None else shares[0].shape
        outs = len(weight) // parts
        out = new_empty(x, (len(x) * stems, frames, outs, channels))
        for image, given, own in zip(x, out.split(stems), shares, strict=True):
            task = Matrix(
                *(image.data_ptr(), frames, image.stride(1), bins, channels, outs, parts),
                *(weight.data_ptr(), None if bias is None else bias.data_ptr()),
                *(self.scale.data_ptr(), self.shift.data_ptr()),
                *(None if own is None else own.data_ptr(), stems, given.data_ptr(), self._slope),
            )
            products = OUTS_AT_ONCE * frames * bins * channels * parts
            work = partial(self._multiply_groups, task)
            run_shares(work, -(-outs // OUTS_AT_ONCE), -(-FEWEST_PRODUCTS // products))
        return out.permute(0, 3, 1, 2)

    def _multiply_groups(self, task: Matrix, first: int, last: int) -> None:
        last = min(last * OUTS_AT_ONCE, task.outs)
        self._library.multiply_rows(task, first * OUTS_AT_ONCE, last)
