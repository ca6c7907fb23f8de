from __future__ import annotations

import torch
from torch import nn

from stemsplit.training.ema import WeightAverage


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_it_is_the_exponential_average_of_all_weights_so_far() -> None:
    network = make_network()
    average = WeightAverage(network, 0.75)
    expected = {name: value.detach().clone() for name, value in network.named_parameters()}
    for step in range(5):
        with torch.no_grad():
            for value in network.parameters():
                value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(step)))
        average.update(network)
        for name, value in network.named_parameters():
            expected[name] = 0.75 * expected[name] + 0.25 * value.detach()
    other = make_network()
    average.copy_to(other)
    for name, value in other.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name])


def test_it_leaves_the_network_and_its_statistics_alone() -> None:
    network = make_network()
    average = WeightAverage(network, 0.5)
    network.train()(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    average.update(network)
    average.copy_to(network)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert before["1.running_mean"].any()


def test_its_state_goes_on() -> None:
    network = make_network()
    average, other = WeightAverage(network, 0.5), WeightAverage(make_network(), 0.5)
    with torch.no_grad():
        network[0].weight.add_(1)
    average.update(network)
    other.load_state_dict({name: value.clone() for name, value in average.state_dict().items()})
    average.update(network)
    other.update(network)
    assert torch.equal(average.weights["0.weight"], other.weights["0.weight"])
