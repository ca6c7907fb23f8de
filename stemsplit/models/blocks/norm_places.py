"""What a batch norm reads and who reads it, as data: in use it can become part of those layers.

A module that has batch norms says so by a method `norm_places`, which yields these. Only what holds
in evaluation is meant, and a norm that is not mentioned stays. `stemsplit.backends.folding` says
what becomes of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

Part = tuple[nn.Module, int, int]
"""A layer and a run of its output channels: the first, and how many."""
NormPlace = tuple[nn.Module, Sequence[tuple[int, Sequence[Part]]], Sequence[nn.Module]]
"""(norm, before, after): what is summed in each run of channels that it reads, or who reads it."""


def behind(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, norm: nn.Module) -> NormPlace:
    """Say that a norm reads all that a layer gives, and nothing else does."""
    wide = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return behind_sum(norm, [(layer, 0, wide)])


def behind_sum(norm: nn.Module, parts: Sequence[Part]) -> NormPlace:
    """Say that a norm reads the sum of these, and nothing else reads any of them."""
    return norm, [(0, parts)], ()


def before(norm: nn.Module, *layers: nn.Module) -> NormPlace:
    """Say that these layers read what a norm gives, and nothing else does."""
    return norm, (), layers
