"""A dense block of convolutions that C computes, some rows of all layers after the other.

Every layer reads what all before it gave. Computed one by one, all of these images are there at
once; here each layer follows the one before it down a strip of the image, by a tile's height, and
what is kept are the rows that the last layer has not got to: few enough to stay in a core's own
cache. The results are the same to the last bit. What a U-Net takes from one level to the next is
computed in step with them, too, and is never there as a whole.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from functools import cached_property, partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from stemsplit.backends.native.convolution import TILE, NativeConv2d, find_workspace, turn
from stemsplit.backends.native.library import Layer, Patches, Task
from stemsplit.backends.native.patches import NativePatches
from stemsplit.backends.native.pending import Pending
from stemsplit.dsp.memory import new_empty
from stemsplit.dsp.threads import run_together, take

ROWS_AT_ONCE = 8
"""Of a layer, before the next one's turn: divisible by `TILE`."""
MOST_COLUMNS, FEWEST_COLUMNS = 256, 128
"""Of a strip. Layers before the last compute some columns of the neighbouring strips, too."""
MOST_SHARED = 0.25
"""How many of a strip's columns, at most, the first layer may compute beside it on each side."""


class NativeDense(nn.Module):
    """Convolutions that each read the block's inputs and all outputs before, the newest first.

    Shape: parts of (B, C_in, H, W) -> (B, C_out, H, W).
    """

    def __init__(self, layers: Sequence[NativeConv2d]) -> None:
        """Put layers together.

        Args:
            layers: All of which keep rows.
        """
        super().__init__()
        self._layers = layers
        # As torch knows its modules.
        self.layers = nn.ModuleList(layers)

    def forward(self, parts: Sequence[Tensor | Pending]) -> Tensor:
        """Return the last layer's output.

        Args:
            parts: The first may be yet to be computed. Shape of each: (B, C_part, H, W).

        Returns:
            Shape (B, C_out, H, W).
        """
        threads = torch.get_num_threads()
        lead, *others = parts
        images = [part for part in others if isinstance(part, Tensor)]
        patches = None
        if not isinstance(lead, Tensor):
            patches = _Patches(lead) if _has_patches(lead) else None
            lead = lead.compute() if patches is None else patches.like
        width = lead.shape[3]
        strips = threads * max(1, -(-width // (MOST_COLUMNS * threads)))
        if len(lead) > 1 or not self._are_wide_enough(width // strips):
            images.insert(0, lead if patches is None else patches.compute())
            for layer in self._layers:
                images.insert(0, layer(*images))
            return images[0]
        images = [turn(image) for image in (images if patches else [lead, *images])]
        self._layers[0].check([lead, *images] if patches else images, ())
        out = self._layers[-1].new_output(lead)
        edges = [TILE * (width * place // (strips * TILE)) for place in range(strips)]
        waiting = deque(range(*pair) for pair in pairwise((*edges, width)))
        widest = max(map(len, waiting))
        runs = [_Run(self._layers, patches, images, out, widest) for _ in range(threads)]
        run_together([partial(run.follow, waiting) for run in runs])
        return out

    def _are_wide_enough(self, columns: int) -> bool:
        """Tell whether strips save more than they cost.

        A smaller image stays in the cache, and threads share the work of each layer.
        """
        beside = TILE * (len(self._layers) - 1)
        return columns >= FEWEST_COLUMNS and beside <= MOST_SHARED * columns


def _has_patches(part: Pending) -> bool:
    """Tell whether a part can be computed in step with the layers: tiles are whole patches."""
    layer = part.layer
    return isinstance(layer, NativePatches) and all(TILE % step == 0 for step in layer.spreads)


class _Patches:
    """A part that goes before the layers, and gives as many rows at once as they do.

    Attributes:
        like: Of its shape and numbers, for those who ask; what is in it is nobody's.
    """

    def __init__(self, part: Pending) -> None:
        """Prepare.

        Args:
            part: What `_has_patches` says yes to.
        """
        layer = part.layer
        assert isinstance(layer, NativePatches), "`_has_patches` has said so"
        self.compute = part.compute
        self._layer, self._part = layer, part
        size = layer.find_size(part.image)
        self.like = torch.empty(1).expand(len(part.image), layer.channels, *size)

    @cached_property
    def _image(self) -> Tensor:
        return self._layer.turn(self._part.image)

    def new_window(self, rows: int, columns: int) -> Tensor:
        """Return memory for a part of it. Shape (1, C, rows, columns)."""
        # One row more, which is not seen: vectors may be read past the last pixel.
        pixels = new_empty(self._image, (1, rows + 1, columns, self._layer.channels))
        return pixels[:, :rows].permute(0, 3, 1, 2)

    def describe(self, window: Tensor) -> tuple[Task, Patches]:
        """Tell C to compute it. The task says where it goes, and how much of it there is."""
        *_, height, width = self.like.shape
        task = Task(grid_rows=height, grid_columns=width)
        task.out.row, task.out.pixel = window.stride()[2:]
        return task, self._layer.describe(self._image, window[0].permute(1, 2, 0))


class _Run:
    """What one thread needs to compute strips, one after the other."""

    def __init__(
        self,
        layers: Sequence[NativeConv2d],
        patches: _Patches | None,
        parts: Sequence[Tensor],
        out: Tensor,
        widest: int,
    ) -> None:
        """Get memory, and tell C what to do.

        Args:
            layers: The block's.
            patches: The part that is read before the others, if it is computed here.
            parts: What it reads. Shape (1, C_part, H, W).
            out: Where the last layer's output goes. Shape (1, C_out, H, W).
            widest: Columns of the widest strip.
        """
        self._library = layers[0].library
        *_, height, width = out.shape
        self._floats = 0
        self._layers: list[Layer] = []
        # What C is told the addresses of.
        self._images = list(parts)

        def find_size(lead: int) -> tuple[int, int]:
            return min(height, ROWS_AT_ONCE + lead + 1), min(width, widest + 2 * lead)

        if patches is not None:
            lead = TILE * len(layers)
            window = patches.new_window(*find_size(lead))
            described = map(ctypes.pointer, patches.describe(window))
            self._layers.append(Layer(*described, 0, lead, window.data_ptr()))
            self._images.insert(0, window)
        for place, layer in enumerate(layers):
            lead = TILE * (len(layers) - 1 - place)
            rows, columns = find_size(lead)
            goal = layer.new_window(out, rows, columns) if lead else out
            task = layer.describe(self._images, (height, width), goal)
            block = layer.find_block(task, ROWS_AT_ONCE // TILE * -(-columns // TILE), 1)
            self._floats = max(self._floats, self._library.count_floats(task, block))
            place_of = goal.data_ptr() if lead else None
            self._layers.append(Layer(ctypes.pointer(task), None, block, lead, place_of))
            self._images.insert(0, goal)

    def follow(self, strips: deque[range]) -> None:
        """Let the layers follow one another down each strip that no thread has taken.

        Args:
            strips: Columns of the image; the first of each is divisible by `TILE`.
        """
        while (strip := take(strips)) is not None:
            for layer in self._layers:
                task = layer.task.contents
                task.left = max(0, strip.start - layer.lead)
                task.right = min(task.grid_columns, strip.stop + layer.lead)
            self._library.follow(self._layers, ROWS_AT_ONCE, find_workspace(self._floats))
