from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stemsplit.backends.filled import FilledConv2d, fill_vectors


@pytest.mark.parametrize(
    "shape",
    [
        {"kernel_size": 3, "padding": 4, "dilation": 4},
        {"kernel_size": (3, 5), "stride": 2, "bias": False},
        {"kernel_size": 3, "padding": "same"},
    ],
)
@torch.no_grad()
def test_it_is_the_convolution(shape: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(5, 13, **shape), nn.ReLU())
    x = torch.randn(2, 5, 12, 16)
    expected = net(x)
    fill_vectors(net)
    assert isinstance(net[0], FilledConv2d)
    torch.testing.assert_close(net(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 16, 3),
        nn.Conv2d(4, 7, 3),
        nn.Conv2d(4, 18, 3, groups=2),
        nn.Conv2d(4, 13, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(4, 13, 3),
    ],
)
def test_other_layers_stay(layer: nn.Module) -> None:
    net = nn.Sequential(layer)
    fill_vectors(net)
    assert net[0] is layer
