"""Convolutions of many kinds as 3x3 convolutions on grids of pixels.

With stride s, an output r meets input s r + i - p at tap i. Inputs of one remainder by s lie on a
grid, on which the taps that meet them are one after the other: a convolution of stride 1 with every
s-th tap. The sum over all grids is the strided convolution. With dilation d, outputs of one
remainder meet inputs on one grid, and the grids have nothing to do with each other. A transposed
convolution of stride s is one convolution per remainder of its outputs (`phases.py`), all of which
read the same inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from torch import Tensor, nn

TAPS = 3


@dataclass(frozen=True)
class AxisGrid:
    """Every so many-th pixel along one axis, and the part of a kernel that meets them.

    Attributes:
        first: The pixel that the first output's first tap meets, or where the first output goes.
        taps: Which of the kernel's taps are its one to three, in the order of the pixels. A source
            has none of its own where targets have them, and the other way round.
    """

    first: int
    taps: tuple[int, ...] = ()

    @property
    def is_full(self) -> bool:
        """Whether the third tap counts."""
        return len(self.taps) in (0, TAPS)


Grid = tuple[AxisGrid, AxisGrid]
_ALL = (AxisGrid(0), AxisGrid(0))


@dataclass(frozen=True)
class Geometry:
    """A convolution as one of grids.

    Attributes:
        sources: Grids of inputs, which are summed.
        targets: Grids of outputs. The taps are the sources', or where it is transposed the
            targets'.
        in_step: Pixels from one of a source's grid to the next.
        out_step: The same of a target's.
        classes: Along each axis: copies of all grids, a pixel apart, with nothing to do with each
            other.
        is_transposed: Whether the layer is.
    """

    sources: tuple[Grid, ...]
    targets: tuple[Grid, ...]
    in_step: int = 1
    out_step: int = 1
    classes: int = 1
    is_transposed: bool = False


def plan(layer: nn.Conv2d | nn.ConvTranspose2d, zeros: tuple[int, int]) -> Geometry | None:
    """Return how a layer is computed; None where it is none of these convolutions.

    Args:
        layer: A convolution.
        zeros: Rows above and columns left of its input, beside its own padding.
    """
    if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    stride, dilation = layer.stride[0], layer.dilation[0]
    if layer.stride != (stride, stride) or layer.dilation != (dilation, dilation):
        return None
    if stride > 1 and dilation > 1:
        return None
    pads = [own + more for own, more in zip(layer.padding, zeros, strict=True)]
    if isinstance(layer, nn.ConvTranspose2d):
        if stride == 1 or dilation > 1 or any(zeros):
            return None
        return _plan_transposed(layer.kernel_size, stride, pads)
    if dilation > 1:
        if layer.kernel_size != (TAPS, TAPS):
            return None
        source = (AxisGrid(-pads[0], tuple(range(TAPS))), AxisGrid(-pads[1], tuple(range(TAPS))))
        return Geometry((source,), (_ALL,), dilation, dilation, classes=dilation)
    grids = [
        _sort_taps(kernel, stride, pad) for kernel, pad in zip(layer.kernel_size, pads, strict=True)
    ]
    if not all(map(_fits, grids)):
        return None
    return Geometry(tuple(product(grids[0], grids[1])), (_ALL,), stride)


def _plan_transposed(kernel: Sequence[int], stride: int, pads: Sequence[int]) -> Geometry | None:
    phases = [_find_phases(size, stride, pad) for size, pad in zip(kernel, pads, strict=True)]
    firsts = [{grid.first for grid in grids} for grids in phases]
    if any(len(first) > 1 for first in firsts) or not all(map(_fits, phases)):
        return None
    source = (AxisGrid(firsts[0].pop()), AxisGrid(firsts[1].pop()))
    rows, columns = (
        [AxisGrid(place, grid.taps) for place, grid in enumerate(grids)] for grids in phases
    )
    targets = tuple(product(rows, columns))
    return Geometry((source,), targets, out_step=stride, is_transposed=True)


def _fits(grids: list[AxisGrid]) -> bool:
    """Tell whether a kernel's parts are of two or three taps, some of them of three."""
    return {len(grid.taps) for grid in grids} in ({TAPS}, {TAPS - 1, TAPS})


def _sort_taps(kernel: int, stride: int, padding: int) -> list[AxisGrid]:
    """Sort taps by the grid that they meet."""
    grids = []
    for remainder in range(stride):
        taps = [tap for tap in range(kernel) if (tap - padding) % stride == remainder]
        if taps:
            grids.append(AxisGrid(taps[0] - padding, tuple(taps)))
    return grids


def _find_phases(kernel: int, stride: int, padding: int) -> list[AxisGrid]:
    """Return each phase's taps, and the pixel that its first output's first tap meets."""
    grids = []
    for remainder in range(stride):
        shift, first = divmod(remainder + padding, stride)
        taps = tuple(reversed(range(first, kernel, stride)))
        grids.append(AxisGrid(shift - (len(taps) - 1), taps))
    return grids


def cut_kernels(layer: nn.Conv2d | nn.ConvTranspose2d, geometry: Geometry) -> Tensor:
    """Return each grid's taps, zeros where it has none.

    Returns:
        Shape (3, 3, sources, C_in, targets, C_out).
    """
    weight = layer.weight.detach()
    # (C_in, C_out, K, K) is how transposed convolutions have it.
    weight = weight if geometry.is_transposed else weight.transpose(0, 1)
    weight = weight.permute(2, 3, 0, 1)
    sources, targets = geometry.sources, geometry.targets
    sizes = len(sources), weight.shape[2], len(targets), weight.shape[3]
    taps = weight.new_zeros(TAPS, TAPS, *sizes)
    for (s, source), (t, target) in product(enumerate(sources), enumerate(targets)):
        rows, columns = (axis.taps for axis in (target if geometry.is_transposed else source))
        for (i, row), (j, column) in product(enumerate(rows), enumerate(columns)):
            taps[i, j, s, :, t] = weight[row, column]
    return taps
