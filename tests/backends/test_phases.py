from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stemsplit.backends.phases import PhasedConvTranspose2d, split_phases


@pytest.mark.parametrize("wide_out", [1, 2, 9])
@pytest.mark.parametrize(
    "shape",
    [
        {"kernel_size": 5, "stride": 2, "padding": 1},
        {"kernel_size": 5, "stride": 2},
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 4, "stride": 2, "padding": 3},
        {"kernel_size": (3, 6), "stride": 3, "padding": (0, 2), "output_padding": (2, 1)},
        {"kernel_size": (2, 5), "stride": 2, "padding": (1, 4), "bias": False},
    ],
)
@torch.no_grad()
def test_it_is_the_transposed_convolution(wide_out: int, shape: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(3, wide_out, **shape)
    for size in ((7, 10), (4, 5)):
        x = torch.randn(2, 3, *size)
        torch.testing.assert_close(PhasedConvTranspose2d(layer)(x), layer(x), rtol=1e-5, atol=1e-6)


def test_the_network_itself_stays_as_it_was() -> None:
    up = nn.Sequential(nn.ConvTranspose2d(4, 3, 2, stride=2), nn.ReLU())
    net = nn.Sequential(nn.Conv2d(2, 4, 3), up)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    changed = split_phases(net)
    assert isinstance(up[0], nn.ConvTranspose2d)
    assert any(isinstance(layer, PhasedConvTranspose2d) for layer in changed.modules())
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)
    assert next(changed.children()) is net[0], "what need not change is shared"
    x = torch.randn(1, 2, 9, 8)
    torch.testing.assert_close(changed(x), net(x))


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(4, 4, 3),
        nn.ConvTranspose2d(4, 4, 3, stride=2, groups=2),
        nn.ConvTranspose2d(4, 4, 3, stride=2, dilation=2),
        nn.ConvTranspose2d(4, 4, 3, stride=(2, 1)),
        nn.ConvTranspose2d(4, 4, 1, stride=2),
        nn.Conv2d(4, 4, 3, stride=2),
    ],
)
def test_other_layers_stay(layer: nn.Module) -> None:
    assert split_phases(layer) is layer
