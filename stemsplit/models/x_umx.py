"""CrossNet-Open-Unmix (X-UMX): Open-Unmix's networks for all stems, joined by two averages.

Sawata, Uhlich, Takahashi, Mitsufuji: All for one and one for all: improving music separation by
bridging networks. ICASSP 2021. No weight is added: each network h_s keeps its own statistics, LSTM
and mask, but the LSTMs read the mean of what all of them saw, and the masks are made of the mean of
what all of them saw and remembered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from stemsplit.models.open_unmix import MaskNets, OpenUnmix, OpenUnmixConfig, OpenUnmixNet


@dataclass(frozen=True)
class XUmxConfig(OpenUnmixConfig):
    """Open-Unmix's; the original filters the whole song at once, with norbert's constants."""

    filter_frames: int = 0
    filter_eps: float = 2.220446049250313e-16


class BridgedNets(MaskNets):
    """Networks that look and remember together, whichever of their masks are wanted.

    Shape: magnitude (B, C, F, N) -> masks (B, S, C, F, N), 0 or more.
    """

    def __init__(
        self, nets: Mapping[str, OpenUnmixNet], wanted: Sequence[str] | None = None
    ) -> None:
        super().__init__(nets)
        self.wanted: tuple[str, ...] = tuple(nets) if wanted is None else tuple(wanted)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Shape: (B, C, F, N) -> (B, S, C, F, N)."""
        (magnitude,) = inputs
        nets: dict[str, OpenUnmixNet] = dict(self.nets.items())  # type: ignore[arg-type]  # a ModuleDict forgets what it was given
        # First bridge, h the mean of h_s: every LSTM reads h.
        seen = _mean([net.look(magnitude) for net in nets.values()])
        # Second bridge: the mean of [h_s, LSTM_s(h)] is [h, the mean of LSTM_s(h)].
        remembered = _mean([net.remember(seen) for net in nets.values()])
        features = torch.cat((seen, remembered), dim=-1)
        return self.stack([nets[stem].mask(features) for stem in self.wanted])

    def only(self, stems: Sequence[str]) -> Self:
        """Return the same networks, with the masks of some stems alone; weights are shared."""
        return type(self)(dict(self.nets.items()), stems)  # type: ignore[arg-type]  # see forward


class XUmx(OpenUnmix):
    """X-UMX: the stems are named, whatever their order; all networks work for each of them."""

    Config = XUmxConfig

    def _build_core(self) -> BridgedNets:
        return BridgedNets({stem: OpenUnmixNet(self.config) for stem in self.config.stems})


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """Average tensors of one shape, without holding a stack of them."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total / len(tensors)
