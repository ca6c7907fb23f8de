"""Layers of a network replaced by those in C, with the norms and activations around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from stemsplit.backends.folding import read_affine
from stemsplit.backends.native.convolution import Epilogue, NativeConv2d
from stemsplit.backends.native.dense import NativeDense
from stemsplit.backends.native.geometry import Geometry, plan
from stemsplit.backends.native.library import Library, find_library
from stemsplit.backends.native.matrices import MOST_LOWERED, HasMatrix, NativeMatrix, fits_matrix
from stemsplit.backends.native.patches import NativePatches, fits_patches
from stemsplit.backends.native.planes import NativePlanesConv2d, fits_planes
from stemsplit.backends.native.rows import NativeDenseRows, NativeRows, fits_rows

POINTS = 36
MOST_KERNEL_BYTES = 40 << 20
"""A kernel is larger at 36 points than it was; past this, reading it takes the time saved."""
FEWEST_CHANNELS = 8
"""That come in or go out, the larger of them: less is not worth the way through Python and C."""


class Fused(Protocol):
    """What a module says of itself. See `stemsplit.models.blocks.fusion`."""

    conv: nn.Conv2d | nn.ConvTranspose2d
    before: tuple[nn.Module, ...]
    behind: tuple[nn.Module, ...]
    zeros: tuple[int, int, int, int]
    gives_bare: bool
    takes_plus: bool


@runtime_checkable
class HasDenseLayers(Protocol):
    """A module each of whose layers reads all that came before it."""

    def dense_layers(self) -> Iterable[nn.Module]:
        """Return the layers."""


@runtime_checkable
class HasChains(Protocol):
    """A module some of whose children follow one another."""

    def chains(self) -> Iterable[Sequence[str]]:
        """Return their names, a convolution's first."""


@runtime_checkable
class HasFusion(Protocol):
    """A module that is one convolution and what is around it."""

    def fusion(self) -> Fused:
        """Return its pieces."""


def use_native_convolutions(core: nn.Module) -> None:
    """Replace what can be replaced, in place; no tensor is written to.

    Does nothing where there is no library for this processor.

    Args:
        core: In evaluation mode, float32, on a processor.
    """
    library = find_library()
    if library is not None:
        _replace_children(core, library)


def use_native_matrices(core: nn.Module, *, is_lowered: bool) -> None:
    """Replace matrices over frequency that can be replaced, in place; no tensor is written to.

    Does nothing where there is no library for this processor.

    Args:
        core: In evaluation mode, float32, on a processor.
        is_lowered: Whether what is left is computed in shorter numbers: large matrices are left.
    """
    library = find_library()
    if library is None:
        return
    for module in list(core.modules()):
        for name, child in module.named_children():
            if not isinstance(child, HasMatrix):
                continue
            pieces = child.matrix()
            slope = _find_slope((pieces.activation,))
            if is_lowered and pieces.linear.weight.numel() > MOST_LOWERED:
                continue
            if slope is not None and fits_matrix(pieces.norm, pieces.linear, library):
                matrix = NativeMatrix(library, pieces.linear, pieces.norm, slope)
                setattr(module, name, matrix)


def _replace_children(module: nn.Module, library: Library) -> None:
    for chain in module.chains() if isinstance(module, HasChains) else ():
        _replace_chain(module, chain, library)
    for name, child in module.named_children():
        replacement = _replace(child, library)
        if replacement is None:
            _replace_children(child, library)
            replacement = _join_layers(child)
        if replacement is not None:
            setattr(module, name, replacement)


def _replace_chain(module: nn.Module, names: Sequence[str], library: Library) -> None:
    """Let the first of a module's children do the work of all, where C can."""
    conv, *behind = (module.get_submodule(name) for name in names)
    slope = _find_slope(behind)
    if slope is not None and fits_patches(conv, library):
        setattr(module, names[0], NativePatches(library, conv, slope))
        for name in names[1:]:
            setattr(module, name, nn.Identity())


def _join_layers(module: nn.Module) -> NativeDense | NativeDenseRows | None:
    """Return what computes a dense block, all of whose layers are bare convolutions in C by now."""
    if not isinstance(module, HasDenseLayers):
        return None
    units = list(module.dense_layers())
    rows = [unit for unit in units if isinstance(unit, NativeRows) and unit.keeps_width]
    if not units:
        return None
    if len(rows) == len(units):
        return NativeDenseRows(rows)
    bare = [unit.conv for unit in units if isinstance(unit, NativeUnit) and unit.is_bare]
    if len(bare) == len(units) and all(conv.keeps_rows for conv in bare):
        return NativeDense(bare)
    return None


def _replace(module: nn.Module, library: Library) -> nn.Module | None:
    if isinstance(module, HasFusion):
        pieces = module.fusion()
        has_more = any(not isinstance(one, nn.Identity) for one in pieces.before)
        has_more = has_more or any(pieces.zeros)
        has_more = has_more or pieces.gives_bare or pieces.takes_plus
        slope = None if has_more else _find_slope(pieces.behind)
        if slope is not None and fits_patches(pieces.conv, library):
            return NativePatches(library, pieces.conv, slope)
        if slope is not None and fits_rows(pieces.conv, library):
            return NativeRows(library, pieces.conv, slope)
        geometry = _find_geometry(pieces.conv, (pieces.zeros[0], pieces.zeros[2]))
        return None if geometry is None else NativeUnit(pieces, geometry, library)
    if fits_patches(module, library):
        return NativePatches(library, module)
    if fits_rows(module, library):
        return NativeRows(library, module)
    if fits_planes(module):
        return NativePlanesConv2d(library, module)
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        geometry = _find_geometry(module, (0, 0))
        if geometry is None:
            return None
        none = _Epilogue(module.out_channels).done
        return NativeConv2d(library, module, geometry, (0, 0, 0, 0), none, rectifies=False)
    return None


def _find_slope(behind: Iterable[nn.Module]) -> float | None:
    """Return what is below zero times this, where no more than an activation is behind a layer."""
    slopes = [_read_slope(one) for one in behind if not isinstance(one, nn.Identity)]
    return 1.0 if not slopes else slopes[0] if len(slopes) == 1 else None


def _read_slope(module: nn.Module) -> float | None:
    """Return the slope below zero of an activation that is a line on either side of it."""
    if isinstance(module, nn.LeakyReLU):
        return module.negative_slope
    return 0.0 if isinstance(module, nn.ReLU) else None


def _find_geometry(
    layer: nn.Conv2d | nn.ConvTranspose2d, zeros: tuple[int, int]
) -> Geometry | None:
    """Return how C computes a layer, where it can and should."""
    geometry = plan(layer, zeros)
    if geometry is None or layer.weight.dtype != torch.float32:
        return None
    if max(layer.in_channels, layer.out_channels) < FEWEST_CHANNELS:
        return None
    grids = len(geometry.sources) * len(geometry.targets)
    size = POINTS * grids * layer.in_channels * layer.out_channels * 4
    return geometry if size <= MOST_KERNEL_BYTES else None


class _Epilogue:
    """Modules behind a convolution, taken one by one as long as C can do them."""

    def __init__(self, channels: int) -> None:
        self.done = Epilogue(torch.ones(channels), torch.zeros(channels), 1.0, False)
        self._has_affine = self._has_activation = False

    def take(self, module: nn.Module) -> bool:
        """Tell whether a module is done; what comes behind one that is not may not be taken."""
        if isinstance(module, (nn.Identity, nn.Dropout)):
            return True
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            return not self._has_affine and self._take_norm(module)
        slope = _read_slope(module)
        if slope is not None and not self._has_activation:
            self.done = self.done._replace(slope=slope, is_affine_first=self._has_affine)
            self._has_activation = True
            return True
        return False

    def _take_norm(self, norm: nn.BatchNorm2d) -> bool:
        affine = read_affine(norm)
        self.done = self.done._replace(scale=affine.scale.float(), shift=affine.shift.float())
        self._has_affine = True
        return True


class NativeUnit(nn.Module):
    """A module's replacement. Called as the module was."""

    def __init__(self, pieces: Fused, geometry: Geometry, library: Library) -> None:
        """Sort out what C does.

        Args:
            pieces: The module's.
            geometry: How C computes its convolution.
            library: What computes.
        """
        super().__init__()
        before = [one for one in pieces.before if not isinstance(one, nn.Identity)]
        rectifies = bool(before) and isinstance(before[-1], nn.ReLU)
        self.before = nn.Sequential(*(before[:-1] if rectifies else before))
        epilogue = _Epilogue(pieces.conv.out_channels)
        behind = list(pieces.behind)
        while behind and epilogue.take(behind[0]):
            behind.pop(0)
        self.behind = nn.Sequential(*behind)
        self.conv = NativeConv2d(
            library, pieces.conv, geometry, pieces.zeros, epilogue.done, rectifies=rectifies
        )
        self._gives_bare, self._takes_plus = pieces.gives_bare, pieces.takes_plus

    @property
    def is_bare(self) -> bool:
        """Whether its convolution in C is all that there is."""
        has_more = len(self.before) or len(self.behind) or self._gives_bare or self._takes_plus
        return not has_more

    def forward(self, *given: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
        """Return what the module returned, for what it was given."""
        plus = given[1] if self._takes_plus and len(given) > 1 else None
        parts = cast("tuple[Tensor, ...]", given[:1] if self._takes_plus else given)
        if len(self.before):
            parts = tuple(self.before(part) for part in parts)
        bare = self.conv.new_output(parts[0]) if self._gives_bare else None
        out: Tensor = self.conv(*parts, plus=plus, bare=bare, replaces_plus=True)
        out = self.behind(out)
        return out if bare is None else (bare, out)
