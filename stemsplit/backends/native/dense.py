"""A dense block of convolutions that C computes, some rows of all layers after the other.

Every layer reads what all before it gave. Computed one by one, all of these images are there at
once; here each layer follows the one before it by a tile's height, and what is kept of an image is
the rows that the last layer has not got to. The results are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from stemsplit.backends.native.convolution import TILE, NativeConv2d, Rows, turn

ROWS_AT_ONCE = 32
"""More than the layers lie apart."""
FEWEST_ROWS = 3 * ROWS_AT_ONCE
"""An image of fewer is small enough to be computed layer by layer."""


class NativeDense(nn.Module):
    """Convolutions that each read the block's inputs and all outputs before, the newest first.

    Shape: (B, C_in, H, W), in any number of parts -> (B, C_out, H, W).
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

    def forward(self, *parts: Tensor) -> Tensor:
        """Return the last layer's output. Shape: (B, C_in, H, W) -> (B, C_out, H, W)."""
        height = parts[0].shape[2]
        lag = TILE * (len(self._layers) - 1)
        if parts[0].shape[0] > 1 or height < FEWEST_ROWS or lag >= ROWS_AT_ONCE:
            seen = list(parts)
            for layer in self._layers:
                seen.insert(0, layer(*seen))
            return seen[0]
        turned = [turn(part) for part in parts]
        self._layers[0].check(turned, ())
        return self._follow(turned, height)

    def _follow(self, parts: Sequence[Tensor], height: int) -> Tensor:
        """Let the layers follow one another down the image."""
        *first, last = self._layers
        windows = [
            _Window(layer.new_rows(parts[0], ROWS_AT_ONCE + TILE * (len(first) - place) + 1))
            for place, layer in enumerate(first)
        ]
        out = last.new_output(parts[0])
        done = [0] * len(self._layers)
        front = 0
        while done[-1] < height:
            front += ROWS_AT_ONCE
            for window, count in zip(windows, done[:-1], strict=True):
                window.move(max(0, done[-1] - 1), count)
            seen = [Rows(part) for part in parts]
            for place, layer in enumerate(self._layers):
                begin, done[place] = done[place], max(0, min(height, front - TILE * place))
                goal = windows[place].rows if place < len(first) else Rows(out)
                if done[place] > begin:
                    layer.convolve_rows(seen, height, goal, begin, done[place])
                seen.insert(0, goal)
        return out


class _Window:
    """The rows of an image that are still to be read, and room for the next ones."""

    def __init__(self, pixels: Tensor) -> None:
        """Begin at the image's first row. Shape: (1, C, rows, W)."""
        self.rows = Rows(pixels)

    def move(self, first: int, end: int) -> None:
        """Go down, and keep what is there before row `end`."""
        pixels, before = self.rows
        shift = first - before
        if shift == 0:
            return
        self.rows = Rows(pixels, first)
        # No row is read where another has been written.
        for row in range(0, end - first, shift):
            count = min(shift, end - first - row)
            pixels[:, :, row : row + count] = pixels[:, :, row + shift : row + shift + count]
