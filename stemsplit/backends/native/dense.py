"""A dense block of convolutions that C computes, some rows of all layers after the other.

Every layer reads what all before it gave. Computed one by one, all of these images are there at
once; here each layer follows the one before it down a strip of the image, by a tile's height, and
what is kept are the rows that the last layer has not got to: few enough to stay in a core's own
cache. The results are the same to the last bit.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from stemsplit.backends.native.convolution import TILE, NativeConv2d, find_workspace, turn
from stemsplit.backends.native.library import Layer
from stemsplit.backends.native.threads import run_together

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

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the last layer's output. Shape: parts of (B, C_in, H, W) -> (B, C_out, H, W)."""
        threads = torch.get_num_threads()
        width = parts[0].shape[3]
        strips = threads * -(-width // (MOST_COLUMNS * threads))
        if len(parts[0]) != 1 or not self._are_wide_enough(width // strips):
            seen = list(parts)
            for layer in self._layers:
                seen.insert(0, layer(*seen))
            return seen[0]
        turned = [turn(part) for part in parts]
        self._layers[0].check(turned, ())
        out = self._layers[-1].new_output(turned[0])
        edges = [TILE * (width * place // (strips * TILE)) for place in range(strips)]
        waiting = deque(range(*pair) for pair in pairwise((*edges, width)))
        widest = max(map(len, waiting))
        runs = [_Run(self._layers, turned, out, widest) for _ in range(threads)]
        run_together([partial(run.follow, waiting) for run in runs])
        return out

    def _are_wide_enough(self, columns: int) -> bool:
        """Tell whether strips save more than they cost.

        A smaller image stays in the cache, and threads share the work of each layer.
        """
        beside = TILE * (len(self._layers) - 1)
        return columns >= FEWEST_COLUMNS and beside <= MOST_SHARED * columns


class _Run:
    """What one thread needs to compute strips, one after the other."""

    def __init__(
        self,
        layers: Sequence[NativeConv2d],
        parts: Sequence[Tensor],
        out: Tensor,
        widest: int,
    ) -> None:
        """Get memory, and tell C what to do.

        Args:
            layers: The block's.
            parts: What it reads. Shape (1, C_part, H, W).
            out: Where the last layer's output goes. Shape (1, C_out, H, W).
            widest: Columns of the widest strip.
        """
        self._library = layers[0].library
        *_, height, width = out.shape
        # What C is told the addresses of.
        self._images = list(parts)
        self._layers: list[Layer] = []
        self._floats = 0
        for place, layer in enumerate(layers):
            lead = TILE * (len(layers) - 1 - place)
            columns = min(width, widest + 2 * lead)
            goal = out
            if lead:
                rows = min(height, ROWS_AT_ONCE + lead + 1)
                goal = layer.new_window(parts[0], rows, columns)
            task = layer.describe(self._images, (height, width), goal)
            block = layer.find_block(task, ROWS_AT_ONCE // TILE * -(-columns // TILE), 1)
            self._floats = max(self._floats, self._library.count_floats(task, block))
            window = goal.data_ptr() if lead else None
            self._layers.append(Layer(ctypes.pointer(task), block, lead, window))
            self._images.insert(0, goal)

    def follow(self, strips: deque[range]) -> None:
        """Let the layers follow one another down each strip that no thread has taken.

        Args:
            strips: Columns of the image; the first of each is divisible by `TILE`.
        """
        while (strip := _take(strips)) is not None:
            for layer in self._layers:
                task = layer.task.contents
                task.left = max(0, strip.start - layer.lead)
                task.right = min(task.grid_columns, strip.stop + layer.lead)
            self._library.follow(self._layers, ROWS_AT_ONCE, find_workspace(self._floats))


def _take(strips: deque[range]) -> range | None:
    try:
        return strips.popleft()
    except IndexError:
        return None
