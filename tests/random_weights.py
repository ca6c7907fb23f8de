"""Weights and statistics that hide nothing: what is left out shows in the output."""

from __future__ import annotations

import torch
from torch import nn

from stemsplit.models.base import StemModel
from stemsplit.models.catalogue import find_architecture


def randomise(model: nn.Module, seed: int = 0, *, spread: float = 0.2) -> None:
    """Give every parameter and statistic a random value, and keep signals in range.

    Args:
        model: Changed in place.
        seed: Decides the values.
        spread: How far vectors stray from 1 (weights) or 0 (all others).
    """
    dice = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        values = torch.randn(tensor.shape, generator=dice)
        with torch.no_grad():
            if name.endswith("running_var"):
                tensor.copy_(values.square() + 0.5)
            elif tensor.dim() > 1:
                tensor.copy_(values / tensor[0].numel() ** 0.5)
            else:
                tensor.copy_(spread * values + (1 if name.endswith("weight") else 0))


def build_tiny(name: str, stems: tuple[str, ...]) -> StemModel:
    """Return an architecture at its smallest, in evaluation mode."""
    kind = find_architecture(name)
    model = kind(kind.Config.tiny(stems))
    randomise(model)
    return model.eval()
