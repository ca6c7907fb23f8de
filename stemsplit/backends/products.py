"""Convolutions of very large kernels, each as one product of matrices.

Torch brings a convolution's kernels into an order of its own at every call. Deep in a network,
where twelve megabytes of them meet an image of a hundred pixels, that is as much memory again, and
a tenth of the time.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import TypeIs

from stemsplit.dsp.memory import new_empty

FEWEST_NUMBERS = 1 << 21
"""In the kernels of a layer that is replaced."""
MOST_AT_ONCE = 1 << 22
"""Numbers of what is multiplied, or comes out: larger images go a few rows at a time."""


def use_products(core: nn.Module) -> None:
    """Replace convolutions of very many channels, in place; no tensor is written to.

    Args:
        core: In evaluation mode, on a processor.
    """
    for module in list(core.modules()):
        for name, child in module.named_children():
            if _is_large(child):
                setattr(module, name, ProductConv2d(child))


def _is_large(layer: nn.Module) -> TypeIs[nn.Conv2d | nn.ConvTranspose2d]:
    return (
        isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))
        and layer.weight.numel() >= FEWEST_NUMBERS
        and layer.weight.dtype == torch.float32
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and tuple(layer.dilation) == (1, 1)
    )


class ProductConv2d(nn.Module):
    """A convolution, or a transposed one, in float32, for inference.

    Shape: (B, C_in, H, W) -> (B, C_out, H_out, W_out), channels last in memory.
    """

    kernels: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
        """Lay a layer's kernels out as a matrix.

        Args:
            layer: Without groups or dilation, padded by zeros; left as it is.
        """
        super().__init__()
        self._is_transposed = isinstance(layer, nn.ConvTranspose2d)
        weight = layer.weight.detach()
        # What is summed over comes first: C_in of the one, rows, columns and C_in of the other.
        order = (0, 2, 3, 1) if self._is_transposed else (2, 3, 1, 0)
        summed = weight.shape[0] if self._is_transposed else weight[0].numel()
        self.register_buffer("kernels", weight.permute(order).reshape(summed, -1))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())
        self._size = tuple(weight.shape[2:])
        assert not isinstance(layer.padding, str), "`_is_large` takes none of these"
        self._stride, self._padding = layer.stride, layer.padding
        self._more = layer.output_padding

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C_in, H, W) -> (B, C_out, H_out, W_out)."""
        pixels = x.float().permute(0, 2, 3, 1)
        with torch.autocast(x.device.type, enabled=False):
            out = self._transpose(pixels) if self._is_transposed else self._convolve(pixels)
        if self.bias is not None:
            out += self.bias
        return out.permute(0, 3, 1, 2)

    def _convolve(self, pixels: Tensor) -> Tensor:
        """Gather what every kernel sees. Shape: (B, H, W, C_in) -> (B, H_out, W_out, C_out)."""
        down, across = self._padding
        seen = functional.pad(pixels, (0, 0, across, across, down, down))
        for axis in (0, 1):
            seen = seen.unfold(1 + axis, self._size[axis], self._stride[axis])
        seen = seen.permute(0, 1, 2, 4, 5, 3)
        parts = []
        for some in seen.split(_count_rows(seen), dim=1):
            gathered = new_empty(some, some.shape).copy_(some)
            parts.append(gathered.flatten(3) @ self.kernels)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _transpose(self, pixels: Tensor) -> Tensor:
        """Add up what every pixel gives. Shape: (B, H, W, C_in) -> (B, H_out, W_out, C_out)."""
        batch, *lengths, wide = pixels.shape
        ends = [
            (length - 1) * stride + size
            for length, stride, size in zip(lengths, self._stride, self._size, strict=True)
        ]
        channels = self.kernels.shape[1] // math.prod(self._size)
        total = pixels.new_zeros(batch, *ends, channels)
        step = _count_rows(pixels[..., :1].expand(-1, -1, -1, self.kernels.shape[1]))
        for begin in range(0, lengths[0], step):
            part = pixels[:, begin : begin + step].reshape(-1, wide)
            given = new_empty(part, (len(part), self.kernels.shape[1]))
            torch.mm(part, self.kernels, out=given)
            given = given.view(batch, -1, lengths[1], *self._size, channels)
            starts, counts = (begin * self._stride[0], 0), given.shape[1:3]
            for place in itertools.product(*map(range, self._size)):
                rows, columns = (
                    slice(start + tap, start + tap + (count - 1) * stride + 1, stride)
                    for start, tap, count, stride in zip(
                        starts, place, counts, self._stride, strict=True
                    )
                )
                total[:, rows, columns] += given[:, :, :, place[0], place[1]]
        # Padding takes from both ends; a layer may also ask for more behind, or for less.
        (down, across), (below, right) = self._padding, self._more
        return functional.pad(total, (0, 0, -across, right - across, -down, below - down))


def _count_rows(image: Tensor) -> int:
    """Return how many rows of it are taken at once. Shape: (B, H, ...)."""
    return max(1, MOST_AT_ONCE // image[:, :1].numel())
