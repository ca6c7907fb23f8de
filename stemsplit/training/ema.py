"""Averaged weights: smoother than those of any one step, and what is validated and exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAverage:
    """The exponential moving average of a network's parameters.

        average <- decay * average + (1 - decay) * weights, after every step

    The buffers (a batch norm's statistics) are averages by themselves: they stay the network's.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Begin with the weights as they are.

        Args:
            network: Whose parameters are followed.
            decay: From 0 to below 1.
        """
        self.decay = decay
        self.weights = {
            name: parameter.detach().clone() for name, parameter in network.named_parameters()
        }

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step."""
        current = [parameter.detach() for _, parameter in network.named_parameters()]
        torch._foreach_lerp_(list(self.weights.values()), current, 1 - self.decay)

    @torch.no_grad()
    def copy_to(self, network: nn.Module) -> None:
        """Give a network the averaged weights."""
        for name, parameter in network.named_parameters():
            parameter.copy_(self.weights[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a checkpoint has to hold."""
        return self.weights

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        for name, weights in self.weights.items():
            weights.copy_(state[name])
