"""Convolutions over the columns of every row alone: a spectrogram's frequencies, frame by frame.

Every row is computed by itself, so a dense block of such layers goes some rows at a time through
all of them: what one layer gives the next is in a core's own cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from stemsplit.backends.native.convolution import find_workspace, turn
from stemsplit.backends.native.library import Library, RowImage, RowLayer
from stemsplit.backends.native.pending import Pending
from stemsplit.dsp.memory import new_empty
from stemsplit.dsp.threads import run_shares

MOST_KERNEL_BYTES = 1 << 16
"""They are read again for every few pixels, from a near cache. Larger ones are better off as one
product of matrices, which is torch's way."""
FILTER: list[list[float]] = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
"""Winograd's G of F(4, 3): from three taps to what is multiplied."""
MOST_EMPTY = 1
"""Channels that are computed to fill a vector, for each that comes out."""
FEWEST_PIXELS = 256
"""For a thread."""
PIXELS_AT_ONCE = 1024
"""Of a layer, before the next one's turn."""


def fits_rows(layer: nn.Module, library: Library) -> TypeGuard[nn.Conv2d]:
    """Tell whether `NativeRows` can and should compute a layer."""
    if not isinstance(layer, nn.Conv2d) or isinstance(layer.padding, str):
        return False
    tall, wide = layer.kernel_size
    return (
        tall == 1
        and wide > 1
        and layer.padding[0] == 0
        and layer.padding[1] < wide
        and layer.padding_mode == "zeros"
        and layer.stride == layer.dilation == (1, 1)
        and layer.groups == 1
        and -layer.out_channels % library.patch_lanes <= layer.out_channels * MOST_EMPTY
        and layer.weight.dtype == torch.float32
        and 4 * layer.weight.numel() <= MOST_KERNEL_BYTES
    )


class NativeRows(nn.Module):
    """A convolution whose kernel has one row, in float32, for inference. bf16 is made that first.

    Shape: (B, C_in, H, W), in any number of parts -> (B, C_out, H, W_out), channels last in memory.

    Attributes:
        library: What computes.
        channels: C_out.
    """

    kernels: Tensor
    bias: Tensor

    def __init__(self, library: Library, layer: nn.Conv2d, slope: float = 1) -> None:
        """Lay out a layer's kernels.

        Args:
            library: What computes.
            layer: What `fits_rows` takes; left as it is.
            slope: Of the activation behind it, below zero: 1 is none, 0 a ReLU.
        """
        super().__init__()
        self.library = library
        self._slope = slope
        assert not isinstance(layer.padding, str), "`fits_rows` takes none of these"
        self._pad = layer.padding[1]
        # (C_out, C_in, 1, taps) -> (taps, C_in, C_out).
        kernels = layer.weight.detach().squeeze(2).permute(2, 1, 0)
        self._taps = len(kernels)
        if self._taps == len(FILTER[0]):
            points = torch.tensor(FILTER, dtype=torch.float64) @ kernels.double().flatten(1)
            kernels = points.float().unflatten(1, kernels.shape[1:])
        bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach()
        self.channels = layer.out_channels
        empty = (0, -self.channels % library.patch_lanes)
        self.register_buffer("kernels", functional.pad(kernels, empty).contiguous())
        self.register_buffer("bias", functional.pad(bias, empty))

    @property
    def keeps_width(self) -> bool:
        """Whether as many columns come out as go in."""
        return self.count_columns(0) == 0

    def count_columns(self, width: int) -> int:
        """Return W_out for W."""
        return width + 2 * self._pad - self._taps + 1

    def forward(self, *parts: Tensor) -> Tensor:
        """Convolve what is read as if the parts' channels stood side by side.

        Args:
            parts: Shape (B, C_part, H, W).

        Returns:
            Shape (B, C_out, H, W_out).

        Raises:
            ValueError: Parts of other sizes, channels or numbers than these have to be.
        """
        return _follow([self], parts)

    def check(self, parts: Sequence[Tensor]) -> None:
        """Refuse what C would read wrongly. See `forward`."""
        sizes = {(len(part), *part.shape[2:]) for part in parts}
        is_known = all(part.dtype == torch.float32 for part in parts)
        channels, width = self.kernels.shape[1], parts[0].shape[3]
        if len(sizes) > 1 or sum(part.shape[1] for part in parts) != channels or not is_known:
            raise ValueError(
                f"{channels} channels of float32 come in, not {[tuple(p.shape) for p in parts]} "
                f"of {parts[0].dtype}"
            )
        if self.count_columns(width) < 1:
            raise ValueError(f"rows of {width} are too short for {self._taps} taps")

    def describe(self) -> RowLayer:
        """Tell C of it, as long as it is there."""
        _, channels, wide = self.kernels.shape
        return RowLayer(
            *(self._taps, self._pad, channels, wide, self.channels),
            *(self.kernels.data_ptr(), self.bias.data_ptr(), self._slope),
        )


class NativeDenseRows(nn.Module):
    """Such convolutions, each of which reads the block's inputs and all outputs before it.

    Shape: parts of (B, C_in, H, W) -> (B, C_out, H, W).
    """

    def __init__(self, layers: Sequence[NativeRows]) -> None:
        """Put layers together.

        Args:
            layers: At least one; all of which keep the width.

        Raises:
            ValueError: One does not, or does not read what comes before it.
        """
        super().__init__()
        channels = layers[0].kernels.shape[1]
        for layer in layers:
            if layer.kernels.shape[1] != channels or not layer.keeps_width:
                kept = "" if layer.keeps_width else ", and changes the width"
                raise ValueError(
                    f"a layer reads {layer.kernels.shape[1]} channels of {channels}{kept}"
                )
            channels += layer.channels
        self.layers = nn.ModuleList(layers)

    def forward(self, parts: Sequence[Tensor | Pending]) -> Tensor:
        """Return the last layer's output, of layers that read what is newest first.

        Args:
            parts: Some may be yet to be computed. Shape of each: (B, C_part, H, W).

        Returns:
            Shape (B, C_out, H, W).
        """
        images = [part if isinstance(part, Tensor) else part.compute() for part in parts]
        return _follow([*self.layers], images)


def _follow(layers: Sequence[NativeRows], parts: Sequence[Tensor]) -> Tensor:
    """Return what the last layer gives. Shape: parts of (B, C_in, H, W) -> (B, C_out, H, W_out)."""
    images = tuple(map(turn, parts))
    layers[0].check(images)
    batch, _, height, width = images[0].shape
    columns = layers[-1].count_columns(width)
    out = new_empty(images[0], (batch, height, columns, layers[-1].channels))
    told = (RowLayer * len(layers))(*(layer.describe() for layer in layers))
    for place in range(batch):
        sources = [_find_pixels(image[place].permute(1, 2, 0)) for image in images]
        read = (RowImage * len(sources))(*sources)
        work = partial(_compute, layers[0].library, told, read, _find_pixels(out[place]), width)
        run_shares(work, height, -(-FEWEST_PIXELS // columns))
    return out.permute(0, 3, 1, 2)


def _find_pixels(image: Tensor) -> RowImage:
    """Tell C where an image is. Shape: (H, W, C)."""
    rows, _, channels = image.shape
    return RowImage(image.data_ptr(), channels, *image.stride()[:2], rows)


def _compute(
    library: Library,
    layers: ctypes.Array[RowLayer],
    images: ctypes.Array[RowImage],
    out: RowImage,
    width: int,
    top: int,
    bottom: int,
) -> None:
    """Compute rows of one image."""
    rows = bottom - top
    # With one layer there is nothing to keep near.
    step = max(1, rows if len(layers) == 1 else min(rows, -(-PIXELS_AT_ONCE // max(1, width))))
    workspace = find_workspace(library.count_row_floats(layers, width, step))
    library.follow_rows(layers, images, out, width, range(top, bottom, step), workspace)
