"""Convolutions whose outputs fill whole vectors of a processor.

Pixels lie one after the other in memory, each with all of its channels. Where these do not fill
whole vectors, the last of every pixel is stored under a mask, which takes a processor with AVX2
longer than the numbers themselves. Kernels of zeros fill it here; nobody sees what they give.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import TypeIs

VECTOR = 8
"""Float32 numbers in a vector of 256 bits; narrower layers are left alone."""


def fill_vectors(core: nn.Module) -> None:
    """Replace convolutions that leave vectors half empty, in place; no tensor is written to."""
    for module in list(core.modules()):
        for name, child in module.named_children():
            if _has_gap(child):
                setattr(module, name, FilledConv2d(child))


def _has_gap(layer: nn.Module) -> TypeIs[nn.Conv2d]:
    return (
        isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and layer.out_channels > VECTOR
        and layer.out_channels % VECTOR != 0
    )


class FilledConv2d(nn.Module):
    """A convolution with kernels of zeros behind its own, for inference.

    Shape: (B, C_in, H, W) -> (B, C_out, H_out, W_out), a view of what has more channels.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        """Fill up a layer's kernels.

        Args:
            layer: Without groups, padded by zeros; left as it is.
        """
        super().__init__()
        gap = -layer.out_channels % VECTOR
        weight = functional.pad(layer.weight.detach(), (0, 0, 0, 0, 0, 0, 0, gap))
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias: nn.Parameter | None = None
        if layer.bias is not None:
            bias = functional.pad(layer.bias.detach(), (0, gap))
            self.bias = nn.Parameter(bias, requires_grad=False)
        self._out_channels = layer.out_channels
        self._stride, self._dilation = layer.stride, layer.dilation
        self._padding = layer.padding

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C_in, H, W) -> (B, C_out, H_out, W_out)."""
        wide = functional.conv2d(
            x, self.weight, self.bias, self._stride, self._padding, self._dilation
        )
        return wide[:, : self._out_channels]
