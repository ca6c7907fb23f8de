from __future__ import annotations

import pytest
import torch
from music import STEMS

from stemsplit.models.catalogue import find_architecture
from stemsplit.models.open_unmix import OpenUnmix
from stemsplit.training.statistics import set_statistics

MEAN = torch.linspace(1, 2, 129)
DEVIATION = torch.linspace(0.5, 0, 129)


@pytest.mark.parametrize("architecture", ["open-unmix", "x-umx"])
def test_open_unmix_adds_and_multiplies(architecture: str) -> None:
    kind = find_architecture(architecture)
    model = kind(kind.Config.tiny(STEMS))
    assert set_statistics(model, MEAN, DEVIATION) == 2
    assert isinstance(model, OpenUnmix)
    for net in model.core.nets.values():
        bins = model.config.seen_bins
        assert torch.equal(net.input_mean, -MEAN[:bins])
        # No deviation is less than a ten-thousandth of the largest.
        assert torch.equal(net.input_scale, 1 / DEVIATION[:bins].clamp(min=0.5e-4))
        assert net.input_scale.requires_grad


def test_d3net_subtracts_and_divides() -> None:
    kind = find_architecture("d3net")
    model = kind(kind.Config.tiny(STEMS))
    assert set_statistics(model, MEAN, DEVIATION) == 2
    for net in model.core.nets.values():
        assert torch.equal(net.input_mean, MEAN)
        assert torch.equal(net.input_deviation, DEVIATION.clamp(min=0.5e-4))


def test_others_have_no_place_for_them() -> None:
    kind = find_architecture("spleeter")
    model = kind(kind.Config.tiny(STEMS))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert set_statistics(model, torch.ones(2049), torch.ones(2049)) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
