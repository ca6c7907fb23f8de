"""Convolutions that go through an image patch by patch: C does each with few passes over memory."""

from __future__ import annotations

from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn

from stemsplit.backends.native.library import Library, Patches
from stemsplit.dsp.memory import new_empty
from stemsplit.dsp.threads import run_shares

MOST_KERNEL_BYTES = 1 << 15
"""Of a patch's row: they are read for every few pixels, and have to stay in a near cache."""
FEWEST_ROWS = 4
"""For a thread."""


def fits_patches(layer: nn.Module, library: Library) -> TypeGuard[nn.Conv2d | nn.ConvTranspose2d]:
    """Tell whether `NativePatches` can and should compute a layer.

    It can where no two patches meet that are written, or no two rows of those that are read; it
    should where a kernel has more than one tap, few channels come in, and whole vectors go out.
    """
    if not isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        return False
    is_transposed = isinstance(layer, nn.ConvTranspose2d)
    (tall, wide), stride = layer.kernel_size, layer.stride
    row = layer.out_channels * (wide if is_transposed else 1)
    sums = layer.in_channels * (1 if is_transposed else wide)
    return (
        stride == (tall, wide if is_transposed else stride[1])
        and tall * wide > 1
        and row % library.patch_lanes == 0
        and 4 * row * sums <= MOST_KERNEL_BYTES
        and layer.weight.dtype == torch.float32
        and layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding == layer.output_padding == (0, 0)
    )


class NativePatches(nn.Module):
    """A convolution on a processor, in float32, for inference. bf16 is made that first.

    Shape: (B, C_in, H, W) -> (B, C_out, H_out, W_out), channels last in memory.

    Attributes:
        channels: C_out.
        spreads: Rows and columns that a patch gives: of an ordinary convolution, one.
    """

    kernels: Tensor
    bias: Tensor

    def __init__(
        self, library: Library, layer: nn.Conv2d | nn.ConvTranspose2d, slope: float = 1
    ) -> None:
        """Lay out a layer's kernels.

        Args:
            library: What computes.
            layer: What `fits_patches` takes; left as it is.
            slope: Of the activation behind it, below zero: 1 is none, 0 a ReLU.
        """
        super().__init__()
        self._library = library
        self.channels = layer.out_channels
        tall, wide = layer.kernel_size
        is_transposed = isinstance(layer, nn.ConvTranspose2d)
        self.spreads = (tall, wide) if is_transposed else (1, 1)
        self._reads = (1, 1) if is_transposed else (tall, wide)
        self._step = 1 if is_transposed else layer.stride[1]
        # (C_in, C_out, tall, wide) -> (tall, C_in, wide C_out), or of an ordinary convolution
        # (C_out, C_in, tall, wide) -> (tall, wide C_in, C_out).
        weight = layer.weight.detach()
        if is_transposed:
            kernels = weight.permute(2, 0, 3, 1).flatten(2)
        else:
            kernels = weight.permute(2, 3, 1, 0).flatten(1, 2)
        self._slope = slope
        bias = torch.zeros(self.channels) if layer.bias is None else layer.bias.detach()
        self.register_buffer("kernels", kernels.contiguous())
        self.register_buffer("bias", bias.repeat(kernels.shape[2] // self.channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C_in, H, W) -> (B, C_out, H_out, W_out)."""
        height, width = self.find_size(x)
        out = new_empty(x, (len(x), height, width, self.channels), torch.float32)
        down, across = self.spreads
        for image, pixels in zip(map(self.turn, x.split(1)), out, strict=True):
            work = partial(self._write_rows, self.describe(image, pixels), range(width // across))
            run_shares(work, height // down, FEWEST_ROWS)
        return out.permute(0, 3, 1, 2)

    def find_size(self, x: Tensor) -> tuple[int, int]:
        """Return the rows and columns that come out. Shape: (B, C_in, H, W)."""
        rows = x.shape[2] // self._reads[0]
        columns = (x.shape[3] - self._reads[1]) // self._step + 1
        return rows * self.spreads[0], columns * self.spreads[1]

    def turn(self, image: Tensor) -> Tensor:
        """Return an image as C reads it: pixels side by side. Shape: (1, C_in, H, W).

        Raises:
            ValueError: It is none that this layer takes.
        """
        image = image.float() if image.dtype == torch.bfloat16 else image
        channels = self.kernels.shape[1] // self._reads[1]
        is_large = all(map(int.__ge__, image.shape[2:], self._reads))
        if image.dtype != torch.float32 or image.shape[1] != channels or not is_large:
            raise ValueError(
                f"{channels} channels of float32, of at least {self._reads}, are what goes in, "
                f"not {tuple(image.shape)} of {image.dtype}"
            )
        *_, pixel = strides = image.stride()
        is_alone = self._reads[1] == 1
        if (is_alone or pixel == channels) and strides[1] == 1 and channels > 1:
            return image
        turned = image.permute(0, 2, 3, 1)
        return new_empty(image, turned.shape).copy_(turned).permute(0, 3, 1, 2)

    def describe(self, image: Tensor, out: Tensor) -> Patches:
        """Tell C to compute what an image becomes.

        Args:
            image: From `turn`. Shape (1, C_in, H, W).
            out: Pixels of a row side by side. Shape (H_out, W_out, C_out), or rows and columns of
                that, whose place C is told otherwise.
        """
        return Patches(
            *(image.data_ptr(), image.stride(2), self._step * image.stride(3)),
            *(self.kernels.shape[1], self._reads[0], self.spreads[0]),
            *(self.bias.numel(), *(one.data_ptr() for one in (self.kernels, self.bias, out))),
            *(out.stride(0), self._slope),
        )

    def _write_rows(self, task: Patches, columns: range, top: int, bottom: int) -> None:
        self._library.write_patches(task, range(top, bottom), columns)
