from __future__ import annotations

import pytest
import torch
from random_weights import randomise
from torch import nn

from stemsplit.backends import products
from stemsplit.backends.products import ProductConv2d, use_products
from stemsplit.models.spleeter import SameConvTranspose2d


def make_layers() -> list[nn.Conv2d | nn.ConvTranspose2d]:
    return [
        nn.Conv2d(3, 5, 5, stride=2),
        nn.Conv2d(3, 5, (3, 2), stride=(1, 2), padding=(2, 1)),
        nn.Conv2d(3, 5, 1, bias=False),
        nn.ConvTranspose2d(3, 5, 5, stride=2),
        nn.ConvTranspose2d(3, 5, 5, stride=2, padding=1, output_padding=1, bias=False),
        nn.ConvTranspose2d(3, 5, (4, 3), stride=(2, 1), padding=(1, 2)),
        SameConvTranspose2d(3, 5),
    ]


@pytest.mark.parametrize("is_lowered", [False, True])
@pytest.mark.parametrize("at_once", [1 << 22, 700])
@pytest.mark.parametrize("index", range(len(make_layers())))
def test_products_are_the_layers(
    index: int, at_once: int, is_lowered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "MOST_AT_ONCE", at_once)
    layer = make_layers()[index]
    randomise(layer, seed=index)
    x = torch.randn(2, 3, 9, 12, generator=torch.Generator().manual_seed(index))
    x = x.bfloat16() if is_lowered else x
    with torch.no_grad():
        expected = layer(x.float())
        with torch.autocast("cpu", enabled=is_lowered):
            given = ProductConv2d(layer)(x.contiguous(memory_format=torch.channels_last))
    assert given.dtype == torch.float32
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_only_large_layers_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "FEWEST_NUMBERS", 75)
    layers = [nn.Conv2d(3, 1, 5), nn.Conv2d(2, 1, 5), nn.Conv2d(3, 3, 5, groups=3)]
    core = nn.Sequential(*layers, nn.Conv2d(3, 1, 5, dilation=2), nn.ConvTranspose2d(3, 1, 5))
    use_products(core)
    assert [isinstance(one, ProductConv2d) for one in core] == [True, False, False, False, True]
