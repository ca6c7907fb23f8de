"""A convolution of one channel that C computes, row by row."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import TypeIs

from stemsplit.backends.native.library import Library, Planes
from stemsplit.dsp.memory import new_empty
from stemsplit.dsp.threads import run_shares

MOST_CHANNELS = 4
"""That go out: more fill a vector."""
FEWEST_ROWS = 64
"""For a thread."""


def fits_planes(layer: nn.Module) -> TypeIs[nn.Conv2d]:
    """Tell whether a layer is a convolution of one channel into a few, of stride 1."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.in_channels == 1
        and layer.out_channels <= MOST_CHANNELS
        and layer.weight.dtype == torch.float32
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.stride == (1, 1)
        and layer.dilation[0] == layer.dilation[1]
    )


class NativePlanesConv2d(nn.Module):
    """A convolution in float32 on a processor, for inference. bf16 is made float32 first.

    Shape: (B, 1, H, W) -> (B, C_out, H_out, W_out), contiguous.
    """

    kernels: Tensor
    bias: Tensor

    def __init__(self, library: Library, layer: nn.Conv2d) -> None:
        """Take a layer's kernels.

        Args:
            library: What computes.
            layer: What `fits_planes` takes; left as it is.
        """
        super().__init__()
        self._library = library
        bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach()
        self.register_buffer("kernels", layer.weight.detach().flatten(1).contiguous())
        self.register_buffer("bias", bias)
        assert not isinstance(layer.padding, str), "`fits_planes` takes none of these"
        self._size = layer.kernel_size
        self._padding, self._dilation = layer.padding, layer.dilation[0]

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, 1, H, W) -> (B, C_out, H_out, W_out)."""
        x = (x.float() if x.dtype == torch.bfloat16 else x).contiguous()
        outs = len(self.kernels)
        rows, columns = (
            length + 2 * pad - self._dilation * (taps - 1)
            for length, pad, taps in zip(x.shape[2:], self._padding, self._size, strict=True)
        )
        if x.shape[1] != 1 or x.dtype != torch.float32 or min(rows, columns) < 1:
            raise ValueError(
                f"one channel of float32, and enough of it, is what goes in: {x.shape}"
            )
        out = new_empty(x, (x.shape[0], outs, rows, columns))
        task = Planes(
            *(*x.shape[2:], outs, rows, columns),
            *(*self._size, self._dilation, *self._padding),
            *(one.data_ptr() for one in (x, self.kernels, self.bias, out)),
        )
        run_shares(
            lambda first, last: self._library.convolve_planes(task, first, last),
            x.shape[0] * outs * rows,
            FEWEST_ROWS,
        )
        return out
