"""A convolution that C computes, with what stands before and behind it."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from stemsplit.backends.native.geometry import Geometry, Grid, cut_kernels
from stemsplit.backends.native.library import Image, Library, Source, Target, Task
from stemsplit.dsp.memory import new_empty
from stemsplit.dsp.threads import count_threads, run_together

TILE = 4
BLOCK_FLOATS = 128 * 1024
"""What a block of tiles should take while it is computed: a core's own cache."""
FEWEST_TILES, MOST_TILES = 12, 96
"""Of a block. The kernels are read once for each."""

Zeros = tuple[int, int, int, int]
"""Rows above and below an input, columns left and right of it."""


class Epilogue(NamedTuple):
    """What is done to a convolution's outputs: an affine map and an activation.

    Attributes:
        scale: Of each channel. Shape (C_out,).
        shift: Shape (C_out,).
        slope: Of the activation below zero: 1 is none, 0 a ReLU.
        is_affine_first: Whether the map comes before the activation.
    """

    scale: Tensor
    shift: Tensor
    slope: float
    is_affine_first: bool


class NativeConv2d(nn.Module):
    """A convolution in float32 on a processor, for inference. bf16 is made float32 first.

    Shape: (B, C_in, H, W) -> (B, C_out, H_out, W_out), channels last in memory.

    Attributes:
        library: What computes.
    """

    kernels: Tensor
    affine: Tensor

    def __init__(
        self,
        library: Library,
        layer: nn.Conv2d | nn.ConvTranspose2d,
        geometry: Geometry,
        zeros: Zeros,
        epilogue: Epilogue,
        *,
        rectifies: bool,
    ) -> None:
        """Transform a layer's kernels.

        Args:
            library: What computes.
            layer: The convolution; left as it is.
            geometry: What `geometry.plan` said of it.
            zeros: Around the input, beside the layer's own padding.
            epilogue: What is done to the outputs.
            rectifies: Whether the input goes through a ReLU.
        """
        super().__init__()
        self.library = library
        self._geometry = geometry
        self._find_size = _SizeRule(layer, zeros)
        self._slope, self._is_affine_first = epilogue.slope, epilogue.is_affine_first
        self._rectifies = rectifies
        self._channels_in, self._channels = layer.in_channels, layer.out_channels
        targets = len(geometry.targets)
        self._is_packed = targets > 1 and targets * self._channels <= library.lanes
        # Whole vectors are written faster than parts of them: pixels are made that large.
        self._is_padded = self._channels > library.lanes
        kernels = library.pack(self._begin_task(), cut_kernels(layer, geometry))
        self.register_buffer("kernels", kernels)
        bias = torch.zeros(self._channels) if layer.bias is None else layer.bias.detach()
        affine = torch.stack((bias, epilogue.scale, epilogue.shift))
        if self._is_packed:
            affine = affine.repeat(1, targets)
        self.register_buffer(
            "affine", functional.pad(affine, (0, -affine.shape[1] % library.lanes))
        )

    def forward(
        self,
        *parts: Tensor,
        plus: Tensor | None = None,
        bare: Tensor | None = None,
        replaces_plus: bool = False,
    ) -> Tensor:
        """Convolve.

        Args:
            parts: What is read, as if the parts' channels stood one behind the other; several only
                where the geometry has one source. Shape (B, C_part, H, W).
            plus: Added to the convolution. Shape (B, C_out, H_out, W_out).
            bare: From `new_output`; gets what comes before map and activation.
            replaces_plus: Whether the result may be written over `plus`; its pixels' other channels
                stay as they are, and may be parts.

        Returns:
            Shape (B, C_out, H_out, W_out).
        """
        parts = tuple(map(turn, parts))
        plus = None if plus is None else turn(plus)
        size = (len(parts[0]), self._channels, *self._find_size(*parts[0].shape[2:]))
        self.check(parts, size, plus, bare)
        out = plus if replaces_plus and plus is not None and _is_most_of_it(plus) else None
        out = self.new_output(parts[0]) if out is None else out
        task = self._describe(parts, parts[0].shape[2:], size)
        task.padded = self._is_padded and out is not plus
        for image, tensor in ((task.out, out), (task.plus, plus), (task.bare, bare)):
            if tensor is not None:
                _place(image, tensor)
        tiles = self.library.count_tiles(task)
        block = self.find_block(task, tiles, torch.get_num_threads())
        work = partial(self._convolve, task, ctypes.c_int64(0), block)
        run_together([work] * count_threads(tiles, block))
        return out

    @property
    def keeps_rows(self) -> bool:
        """Whether each row comes of the one at its place and of those next to it."""
        geometry = self._geometry
        is_plain = (geometry.in_step, geometry.out_step, geometry.classes) == (1, 1, 1)
        is_plain = is_plain and len(geometry.sources) == len(geometry.targets) == 1
        is_central = all(axis.first == -1 for axis in geometry.sources[0])
        return is_plain and is_central and self._find_size(8, 8) == (8, 8)

    def describe(self, parts: Sequence[Tensor], size: Sequence[int], out: Tensor) -> Task:
        """Tell C to compute an image's result, where `keeps_rows`.

        Args:
            parts: What is read, as `forward` says, of one image in float32: whole images, or
                windows on them whose place C is told otherwise.
            size: Rows and columns.
            out: What is written, the same.
        """
        task = self._describe(parts, size, (1, self._channels, *size))
        _place(task.out, out)
        return task

    def new_output(self, x: Tensor) -> Tensor:
        """Return memory for what comes out for an input. Shape (B, C_out, H_out, W_out)."""
        rows, columns = self._find_size(x.shape[2], x.shape[3])
        return self._new_image(x, rows, columns)

    def new_window(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Return memory for a part of an input's result. Shape (1, C_out, rows, columns)."""
        # One row more, which is not seen: vectors may be read past the last pixel.
        return self._new_image(x, rows + 1, columns)[:, :, :rows]

    def _new_image(self, x: Tensor, rows: int, columns: int) -> Tensor:
        wide = self._channels
        if self._is_padded:
            wide += -wide % self.library.lanes
        pixels = new_empty(x, (x.shape[0], rows, columns, wide), torch.float32)
        return pixels[..., : self._channels].permute(0, 3, 1, 2)

    def check(self, parts: Sequence[Tensor], size: Sequence[int], *images: Tensor | None) -> None:
        """Refuse what C would read wrongly.

        Args:
            parts: See `forward`.
            size: Of what comes out.
            images: That are written, or read beside it.

        Raises:
            ValueError: Images of other sizes, channels or numbers than these have to be.
        """
        first = parts[0]
        if any(
            part.shape[::2] != first.shape[::2] or part.shape[3] != first.shape[3] for part in parts
        ):
            raise ValueError(f"parts of different sizes: {[tuple(part.shape) for part in parts]}")
        if sum(part.shape[1] for part in parts) != self._channels_in:
            raise ValueError(
                f"{self._channels_in} channels come in, not {[p.shape[1] for p in parts]}"
            )
        if len(parts) > 1 and len(self._geometry.sources) > 1:
            raise ValueError("a strided convolution reads one part")
        if self._is_packed and any(image is not None for image in images):
            raise ValueError("phases of few channels have no image beside them")
        for image in images:
            if image is not None and tuple(image.shape) != tuple(size):
                raise ValueError(f"an image of {tuple(image.shape)} beside one of {tuple(size)}")
        for image in (*parts, *images):
            if image is not None and (image.dtype != torch.float32 or image.device.type != "cpu"):
                raise ValueError(f"float32 on a processor is what goes in, not {image.dtype}")

    def find_block(self, task: Task, tiles: int, threads: int) -> int:
        """Return how many tiles are best computed at once.

        Args:
            task: The convolution.
            tiles: How many there are. Blocks are of one size, as far as that is worth the kernels.
            threads: That share them.
        """
        floats = self.library.count_floats(task, MOST_TILES) // MOST_TILES
        most = max(FEWEST_TILES, min(MOST_TILES, BLOCK_FLOATS // floats))
        rounds = max(1, -(-tiles // (most * threads)))
        return max(FEWEST_TILES, -(-tiles // (rounds * threads)))

    def _convolve(self, task: Task, next_tile: ctypes.c_int64, block: int) -> None:
        workspace = find_workspace(self.library.count_floats(task, block))
        self.library.convolve(task, next_tile, block, workspace)

    def _begin_task(self, parts: Sequence[Tensor] = ()) -> Task:
        """Tell C of the grids; of those of one input that lies nowhere, by default."""
        grids, geometry = self._geometry.sources, self._geometry
        sources = [_describe_source(grid, part) for part in parts for grid in grids]
        if not parts:
            sources = [_describe_grid(grid, self._channels_in) for grid in grids]
        targets = [
            Target(down.first, across.first, down.is_full, across.is_full)
            for down, across in geometry.targets
        ]
        return Task(
            classes=geometry.classes,
            in_step=geometry.in_step,
            out_step=geometry.out_step,
            channels=self._channels,
            sources=len(sources),
            targets=len(targets),
            packed=self._is_packed,
            rectify=self._rectifies,
            source=(Source * len(sources))(*sources),
            target=(Target * len(targets))(*targets),
            padded=self._is_padded,
            affine_first=self._is_affine_first,
            slope=self._slope,
        )

    def _describe(
        self, parts: Sequence[Tensor], in_size: Sequence[int], size: Sequence[int]
    ) -> Task:
        """Tell C all but where the images go, which are of that size."""
        task = self._begin_task(parts)
        task.images, _, task.out_rows, task.out_columns = size
        task.in_rows, task.in_columns = in_size
        task.grid_rows = -(-task.out_rows // task.out_step)
        task.grid_columns = -(-task.out_columns // task.out_step)
        task.right = task.grid_columns
        task.kernels = self.kernels.data_ptr()
        task.bias, task.scale, task.shift = (row.data_ptr() for row in self.affine)
        return task


def _describe_grid(grid: Grid, channels: int) -> Source:
    down, across = grid
    return Source(
        channels=channels,
        first_row=down.first,
        first_column=across.first,
        tall=down.is_full,
        wide=across.is_full,
    )


def _describe_source(grid: Grid, part: Tensor) -> Source:
    source = _describe_grid(grid, part.shape[1])
    _place(source, part)
    return source


def _place(image: Source | Image, tensor: Tensor) -> None:
    """Tell C where an image's pixels are."""
    image.image, _, image.row, image.pixel = tensor.stride()
    image.pixels = tensor.data_ptr()


def turn(image: Tensor) -> Tensor:
    """Return an image in float32 whose channels lie side by side: itself, or a copy."""
    if image.dtype == torch.bfloat16:
        image = image.float()
    if image.stride(1) == 1 or image.shape[1] == 1:
        return image
    return image.contiguous(memory_format=torch.channels_last)


def _is_most_of_it(image: Tensor) -> bool:
    """Tell whether an image takes half of the memory that it keeps from others, or more."""
    is_whole = 0 not in image.stride()
    return is_whole and 2 * image.nbytes >= image.untyped_storage().nbytes()


class _SizeRule:
    """How many rows and columns come out of a convolution."""

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d, zeros: Zeros) -> None:
        assert not isinstance(layer.padding, str), "`plan` takes none of these"
        self._is_transposed = isinstance(layer, nn.ConvTranspose2d)
        self._stride = layer.stride
        # What the layer adds to a length before, or where it is transposed after, the stride.
        self._more = [
            extra + kernel - stride - 2 * pad
            if self._is_transposed
            else more + 2 * pad - dilation * (kernel - 1) - 1
            for kernel, stride, pad, dilation, extra, more in zip(
                layer.kernel_size,
                layer.stride,
                layer.padding,
                layer.dilation,
                layer.output_padding,
                (zeros[0] + zeros[1], zeros[2] + zeros[3]),
                strict=True,
            )
        ]

    def __call__(self, *lengths: int) -> tuple[int, int]:
        rows, columns = (
            length * stride + more if self._is_transposed else (length + more) // stride + 1
            for length, stride, more in zip(lengths, self._stride, self._more, strict=True)
        )
        return rows, columns


class _Threads(threading.local):
    """A thread's own memory, kept from one convolution to the next."""

    workspace: Tensor | None = None


_OWN = _Threads()


def find_workspace(floats: int) -> Tensor:
    """Return memory of the caller's thread, good until it asks again. Shape (floats or more,)."""
    if _OWN.workspace is None or _OWN.workspace.numel() < floats:
        _OWN.workspace = torch.empty(floats)
    return _OWN.workspace
