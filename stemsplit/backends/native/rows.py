"""Convolutions over the columns of every row alone: a spectrogram's frequencies, frame by frame."""

from __future__ import annotations

from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn

from stemsplit.backends.native.convolution import find_workspace, turn
from stemsplit.backends.native.library import Library, Rows, RowSource
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
FEWEST_PIXELS = 256
"""For a thread."""


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
        and layer.out_channels % library.patch_lanes == 0
        and layer.weight.dtype == torch.float32
        and 4 * layer.weight.numel() <= MOST_KERNEL_BYTES
    )


class NativeRows(nn.Module):
    """A convolution whose kernel has one row, in float32, for inference. bf16 is made that first.

    Shape: (B, C_in, H, W), in any number of parts -> (B, C_out, H, W_out), channels last in memory.
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
        self._library = library
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
        self.register_buffer("kernels", kernels.contiguous())
        self.register_buffer("bias", bias)

    def forward(self, *parts: Tensor) -> Tensor:
        """Convolve what is read as if the parts' channels stood side by side.

        Args:
            parts: Shape (B, C_part, H, W).

        Returns:
            Shape (B, C_out, H, W_out).

        Raises:
            ValueError: Parts of other sizes, channels or numbers than these have to be.
        """
        taps, (_, channels, wide) = self._taps, self.kernels.shape
        parts = tuple(map(turn, parts))
        batch, _, height, width = parts[0].shape
        columns = width + 2 * self._pad - taps + 1
        sizes = {(len(part), *part.shape[2:]) for part in parts}
        is_known = all(part.dtype == torch.float32 for part in parts)
        if len(sizes) > 1 or sum(part.shape[1] for part in parts) != channels or not is_known:
            raise ValueError(
                f"{channels} channels of float32 come in, not {[tuple(p.shape) for p in parts]} "
                f"of {parts[0].dtype}"
            )
        if columns < 1:
            raise ValueError(f"rows of {width} are too short for {taps} taps")
        out = new_empty(parts[0], (batch, height, columns, wide))
        fewest = -(-FEWEST_PIXELS // columns)
        for place in range(batch):
            task = self._describe([part[place] for part in parts], out[place], width)
            run_shares(partial(self._convolve, task), height, fewest)
        return out.permute(0, 3, 1, 2)

    def _convolve(self, task: Rows, top: int, bottom: int) -> None:
        workspace = find_workspace(self._library.count_row_floats(task))
        self._library.convolve_rows(task, top, bottom, workspace)

    def _describe(self, parts: list[Tensor], out: Tensor, width: int) -> Rows:
        """Tell C of one image. Shape: (C_part, H, W), (H, W_out, C_out)."""
        _, channels, wide = self.kernels.shape
        sources = [RowSource(part.data_ptr(), len(part), *part.stride()[1:]) for part in parts]
        return Rows(
            *(width, self._taps, self._pad, len(parts), channels, wide),
            (RowSource * len(sources))(*sources),
            *(one.data_ptr() for one in (self.kernels, self.bias, out)),
            *(out.stride(0), self._slope),
        )
