"""Batch norms made part of the layers around them: in use they only scale and shift.

    norm(x) = a x + b,    a = gamma / sqrt(variance + eps),    b = beta - a mean

A convolution or matrix before a norm takes a into its rows and b into its bias, where nothing else
reads what it gives; so do several whose outputs are summed first, and then one of them takes b. One
behind a norm takes a into its columns, and b through them into its bias: exact where no zeros are
put around what it reads, for they would have been put behind the norm.

Where a norm stands, its module says, by a method `norm_places` that yields (norm, before, after):

    before  what the norm reads, and nobody else: (channel, parts) for a run of its channels from
            `channel`, each part a (layer, row, count); the parts' rows from `row` are summed there
    after   all layers that read what the norm gives; empty, or `before` is

Children of an `nn.Sequential` need no such words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stemsplit.dsp.memory import is_recorded, new_image

Part = tuple[nn.Module, int, int]
Run = tuple[int, Sequence[Part]]
Place = tuple[nn.Module, Sequence[Run], Sequence[nn.Module]]


@runtime_checkable
class HasNormPlaces(Protocol):
    """A module that knows what its norms read, or who reads them."""

    def norm_places(self) -> Iterable[Place]:
        """Yield (norm, before, after). See above."""


def fold_norms(core: nn.Module) -> None:
    """Fold every norm that can be folded, in place; what is left of one is an identity.

    Tensors are replaced, never written to: a copy of a network may share them with it.

    Args:
        core: In evaluation mode.
    """
    folded = set()
    for module in core.modules():
        for norm, before, after in _find_places(module):
            if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
                continue
            affine = read_affine(norm)
            if before and all(_has_rows(layer) for _, parts in before for layer, _, _ in parts):
                for channel, parts in before:
                    _fold_into_rows(affine, channel, parts)
            elif after and all(_sees_no_zeros(layer) for layer in after):
                for layer in after:
                    _fold_into_columns(affine, layer)
            else:
                continue
            folded.add(norm)
    for module in list(core.modules()):
        for name, child in module.named_children():
            if child in folded:
                setattr(module, name, nn.Identity())


def map_norms(core: nn.Module) -> None:
    """Replace the norms of images that are left by the maps that they are, in place.

    Args:
        core: In evaluation mode, on a processor.
    """
    for module in list(core.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d) and child.running_mean is not None:
                setattr(module, name, AffineMap(child))


class AffineMap(nn.Module):
    """A norm of images in use.

    Shape: (B, C, H, W) -> (B, C, H, W).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        """Read a norm, which is left as it is.

        Args:
            norm: With statistics of its own.
        """
        super().__init__()
        affine = read_affine(norm)
        self.register_buffer("scale", affine.scale.float()[:, None, None])
        self.register_buffer("shift", affine.shift.float()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, C, H, W)."""
        if is_recorded(x):
            return torch.addcmul(self.shift, x, self.scale)
        return torch.addcmul(self.shift, x, self.scale, out=new_image(x))


class Affine(NamedTuple):
    """What a norm does in use: scale x + shift, of each channel, in double precision."""

    scale: Tensor
    shift: Tensor


def read_affine(norm: _BatchNorm) -> Affine:
    """Return what a norm does in use.

    Args:
        norm: With statistics of its own.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.detach().double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -scale * norm.running_mean.detach().double()
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return Affine(scale, shift)


def _find_places(module: nn.Module) -> Iterator[Place]:
    if isinstance(module, nn.Sequential):
        for layer, norm in pairwise(module):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                yield norm, [(0, [(layer, 0, layer.out_channels)])], []
    elif isinstance(module, HasNormPlaces):
        yield from module.norm_places()


def _has_rows(layer: nn.Module) -> bool:
    if isinstance(layer, nn.ConvTranspose2d):
        return layer.groups == 1
    return isinstance(layer, (nn.Conv2d, nn.Linear))


def _sees_no_zeros(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding in ((0, 0), "valid")
    return isinstance(layer, nn.Linear)


def _fold_into_rows(affine: Affine, channel: int, parts: Sequence[Part]) -> None:
    """Scale what layers give; the first of them shifts it, too."""
    for place, (layer, row, count) in enumerate(parts):
        rows = slice(row, row + count)
        axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        weight, bias = _read(layer, axis)
        scale = affine.scale[channel : channel + count]
        weight.transpose(0, axis)[rows] *= scale.view(-1, *[1] * (weight.dim() - 1))
        bias[rows] *= scale
        if place == 0:
            bias[rows] += affine.shift[channel : channel + count]
        _write(layer, weight, bias)


def _fold_into_columns(affine: Affine, layer: nn.Module) -> None:
    """Scale what a layer reads, and let it give what the shift would have given."""
    weight, bias = _read(layer, 0)
    flat = weight.flatten(2).sum(dim=2) if weight.dim() > 2 else weight
    bias += flat @ affine.shift
    weight *= affine.scale.view(1, -1, *[1] * (weight.dim() - 2))
    _write(layer, weight, bias)


def _read(layer: nn.Module, axis: int) -> tuple[Tensor, Tensor]:
    """Return a layer's weight and bias, copied in double precision; zeros for no bias."""
    assert isinstance(layer.weight, Tensor)
    weight = layer.weight.detach().double().clone()
    if layer.bias is None:
        return weight, weight.new_zeros(weight.shape[axis])
    assert isinstance(layer.bias, Tensor)
    return weight, layer.bias.detach().double().clone()


def _write(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    assert isinstance(layer.weight, Tensor)
    dtype: torch.dtype = layer.weight.dtype
    layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
