"""The training data's spectra, given to networks that normalise by them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stemsplit.models.base import StemModel

LEAST_SHARE = 1e-4
"""Of the largest deviation: no bin's is smaller."""


@torch.no_grad()
def set_statistics(model: StemModel, mean: Tensor, deviation: Tensor) -> int:
    """Let every network of a model begin with its input's mean and deviation.

    Open-Unmix adds minus the mean and multiplies by one over the deviation, D3Net subtracts and
    divides: they are told by the names of their parameters.

    Args:
        model: Its parameters are changed where they are such.
        mean: Of the mixture's magnitude, averaged over channels, per bin. Shape (F,).
        deviation: Likewise. Shape (F,).

    Returns:
        How many networks had a place for them.
    """
    deviation = deviation.clamp(min=LEAST_SHARE * float(deviation.max()))
    changed = 0
    for network in model.core.modules():
        if hasattr(network, "input_deviation"):
            _fill(network, "input_mean", mean)
            _fill(network, "input_deviation", deviation)
        elif hasattr(network, "input_scale"):
            _fill(network, "input_mean", -mean)
            _fill(network, "input_scale", 1 / deviation)
        else:
            continue
        changed += 1
    return changed


def _fill(network: nn.Module, name: str, values: Tensor) -> None:
    parameter = network.get_parameter(name)
    parameter.copy_(values[: parameter.numel()])
