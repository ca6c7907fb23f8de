"""LaSAFT and its relatives: one U-Net for all stems, told which of them is wanted.

Choi, Kim, Chung, Jung: LaSAFT: latent source attentive frequency transformation for conditioned
source separation. ICASSP 2021. The U-Net is that of `stemsplit.models.unet` with TFC blocks; how a
stem modulates them (FiLM or GPoCM), where, and what follows (nothing, a TDF, LaSAFT, LightSAFT) are
values of one configuration.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from stemsplit.dsp.memory import stack
from stemsplit.models.blocks.conditioning import (
    Attention,
    Condition,
    ConditionedBlock,
    Control,
    LaSAFT,
    LightSAFT,
)
from stemsplit.models.blocks.frame import UNetFrame
from stemsplit.models.blocks.intermediate import TDF, DenseConv, LinearLayer, build_activation
from stemsplit.models.blocks.pieces import OverlappedPieces
from stemsplit.models.unet import RAMP_FRAMES, SpectrogramUNet, SpectrogramUNetConfig


@dataclass(frozen=True)
class ConditionedUNetConfig(SpectrogramUNetConfig):
    """What differs between the family's networks; the defaults are the published large ones'.

    Attributes:
        bias: Whether the matrices over frequency have one; their norms always scale and shift.
        modulation: How a stem changes the channels: "film" each by itself, "gpocm" by a gate that
            reads all.
        conditioned: Which blocks: "encoder", "decoder", or "full", the middle one too.
        transform: What follows: "none", "tdf", "lasaft" or "lightsaft".
        embedding: Numbers that stand for a stem.
        control_layers: Linear layers between these and the modulation, each twice as wide.
        gamma_activation: FiLM: behind what multiplies.
        beta_activation: FiLM: behind what is added.
        norm_modulation: GPoCM: whether gamma and beta go through a norm.
        latents: Latent sources.
        key_width: Numbers that a stem is compared with a latent source by.
        overlap: In the original framing, the share of a piece that the next one begins in; at most
            a half.
    """

    bias: bool = False
    modulation: Literal["film", "gpocm"] = "gpocm"
    conditioned: Literal["encoder", "decoder", "full"] = "decoder"
    transform: Literal["none", "tdf", "lasaft", "lightsaft"] = "lasaft"
    embedding: int = 64
    control_layers: int = 3
    gamma_activation: str = "identity"
    beta_activation: str = "identity"
    norm_modulation: bool = True
    latents: int = 6
    key_width: int = 32
    overlap: float = 0.5

    @property
    def conditioned_blocks(self) -> range:
        """Which blocks a stem modulates, counted down, middle, up."""
        starts = {"encoder": 0, "decoder": self.levels + 1, "full": 0}
        counts = {"encoder": self.levels, "decoder": self.levels, "full": self.blocks}
        start = starts[self.conditioned]
        return range(start, start + counts[self.conditioned])

    @classmethod
    def tiny(cls, stems: tuple[str, ...]) -> Self:
        """Return a network of a few thousand parameters, which masks: silence stays silence."""
        base = super().tiny(stems)
        return replace(base, embedding=4, control_layers=2, latents=2, key_width=3)


def build_block(config: ConditionedUNetConfig, wide_in: int, bins: int) -> ConditionedBlock:
    """Return the block of one level.

    Args:
        config: The network's.
        wide_in: Channels that come in.
        bins: F at this level.

    Raises:
        ValueError: There is no such transform.
    """
    width, latents, activation = config.width, config.latents, config.activation
    kernel = (config.kernel_frames, config.kernel_bins)
    dense = DenseConv(wide_in, width, config.layers, kernel, activation)

    def build_tdf(bins_out: int) -> TDF:
        units = config.squeeze_bins(bins_out)
        return TDF(width, bins, bins_out, units, activation, bias=config.bias, affine=True)

    def build_linear(bins_in: int, bins_out: int) -> LinearLayer:
        return LinearLayer(width, bins_in, bins_out, activation, bias=config.bias, affine=True)

    if config.transform == "none":
        return ConditionedBlock(dense, None)
    if config.transform == "tdf":
        return ConditionedBlock(dense, build_tdf(bins))
    attention = Attention(config.embedding, config.key_width, latents)
    if config.transform == "lasaft":
        return ConditionedBlock(dense, LaSAFT(build_tdf(bins * latents), attention))
    if config.transform == "lightsaft":
        units = config.squeeze_bins(bins)
        if units is None:
            raise ValueError("LightSAFT needs a bottleneck: bottleneck_factor above 0")
        squeeze, expand = build_linear(bins, units * latents), build_linear(units, bins)
        return ConditionedBlock(dense, LightSAFT(squeeze, expand, attention))
    raise ValueError(f"there is no transform {config.transform!r}")


class Modulator(nn.Module):
    """One of the modulation's two parts, for all blocks at once: a matrix, activation, norm.

    Shape: (S, E') -> (S, blocks, *shape).
    """

    def __init__(
        self, width: int, shape: tuple[int, ...], blocks: int, activation: str, *, norm: bool
    ) -> None:
        super().__init__()
        count = blocks * math.prod(shape)
        self.shape = (blocks, *shape)
        self.linear = nn.Linear(width, count)
        self.activation = build_activation(activation)
        self.norm = nn.BatchNorm1d(count, affine=False) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (S, E') -> (S, blocks, *shape)."""
        flat = self.norm(self.activation(self.linear(x)))
        result: Tensor = flat.unflatten(1, self.shape)
        return result


class ConditionedUNetCore(nn.Module):
    """The U-Net, and what tells it the stems.

    Shape: (B, P, N, F) -> (B, S, P, N, F).
    """

    def __init__(self, config: ConditionedUNetConfig) -> None:
        super().__init__()
        width = config.width
        self.blocks = config.blocks
        self.conditioned = config.conditioned_blocks
        # From where stems have to be told apart: some blocks hear of them without being modulated.
        first = 0 if config.transform in ("lasaft", "lightsaft") else self.conditioned.start
        self.parting = min(first, self.blocks - 1)
        self.wanted = list(range(len(config.stems)))
        self.embedding = nn.Embedding(len(config.stems), config.embedding)
        self.control = Control(config.embedding, config.control_layers)
        is_film = config.modulation == "film"
        norm = config.norm_modulation and not is_film
        activations = (config.gamma_activation, config.beta_activation)
        gamma, beta = activations if is_film else ("identity", "identity")
        size, count = self.control.width, len(self.conditioned)
        shape = (width,) if is_film else (width, width)
        self.gamma = Modulator(size, shape, count, gamma, norm=norm)
        self.beta = Modulator(size, (width,), count, beta, norm=norm)
        self.net = UNetFrame(config.frame_sizes, lambda wide, bins: build_block(config, wide, bins))

    def forward(self, planes: Tensor) -> Tensor:
        """Shape: (B, P, N, F) -> (B, S, P, N, F)."""
        if self.training:
            # Norms look at all stems of all songs: they go through together.
            conditions = self._tell(planes.shape[0])
            together: Tensor = self.net.run(planes, conditions).unflatten(0, (planes.shape[0], -1))
            return together
        # Nothing links songs and stems in evaluation: one by one, they take a share of the memory.
        songs = [self._run_apart(song) for song in planes.split(1)]
        return songs[0] if len(songs) == 1 else torch.cat(songs)

    def _run_apart(self, song: Tensor) -> Tensor:
        """Go as far as all stems share the way, then on with each.

        Of what they share the last image is kept, and each stem's is made of it when its turn
        comes: those of all at once would be most of what the network holds. So what attention
        would share of that block (LaSAFT's latent sources, before a stem's share of them) is
        computed anew for a stem: a sixth more operations, with the published sizes. The last two
        stems' are made at once, for there is room for one more when the shared one is not needed.

        Shape: (1, P, N, F) -> (1, S, P, N, F).
        """
        conditions = self._tell(1)
        images = [song]
        skips: list[Tensor] = []
        for place in range(self.parting):
            self.net.step(place, images, skips, condition=conditions[place])
        self.net.step(self.parting, images, skips, condition=None)
        is_skip = bool(skips) and skips[-1] is images[0]
        if is_skip:
            skips.pop()
        block = self.net.block(self.parting)
        assert isinstance(block, ConditionedBlock), "`build_block` builds no other"
        ends = []
        count = len(self.wanted)
        last = max(0, count - 2)
        for group in (*(slice(stem, stem + 1) for stem in range(last)), slice(last, count)):
            is_last = group.start == last
            shared = images.pop() if is_last else images[0]
            told = block.tell(shared, conditions[self.parting].of(group), may_replace=is_last)
            waiting = list(told.expand(group.stop - group.start, -1, -1, -1).split(1))
            del shared, told
            for stem in range(group.start, group.stop):
                own = [waiting.pop(0)]
                own_skips = [*skips, *own] if is_skip else skips.copy()
                for place in range(self.parting + 1, self.blocks):
                    condition = conditions[place].of(slice(stem, stem + 1))
                    self.net.step(place, own, own_skips, condition=condition)
                ends.append(self.net.finish(own.pop()))
        return stack(ends)

    def _tell(self, songs: int) -> list[Condition]:
        """Return what every block is told of the wanted stems."""
        # Row by row: numbers of rows would have to go to the device, and be waited for.
        query = torch.stack([self.embedding.weight[stem] for stem in self.wanted])
        controls = self.control(query)
        gamma, beta = self.gamma(controls), self.beta(controls)
        conditions = [Condition(songs, query, None, None)] * self.blocks
        for index, block in enumerate(self.conditioned):
            parts = gamma[:, index], beta[:, index]
            conditions[block] = Condition(songs, query, *parts)
        return conditions

    def only(self, stems: Sequence[int]) -> ConditionedUNetCore:
        """Return the same network told of some stems alone, in that order; weights are shared."""
        part = copy.copy(self)
        part.wanted = list(stems)
        return part


class ConditionedUNet(SpectrogramUNet):
    """One conditioned U-Net: the stems' order is that of the conditions it was trained with."""

    Config = ConditionedUNetConfig
    config: ConditionedUNetConfig
    core: ConditionedUNetCore

    def __init__(self, config: ConditionedUNetConfig) -> None:
        edge = math.ceil(max(config.trim_samples, config.n_fft) / config.hop_length)
        super().__init__(config, edge, min(RAMP_FRAMES, config.segment_frames // 8))
        step = int(self.pieces.kept * (1 - config.overlap))
        window, trim = self.pieces.window, self.pieces.trim
        self.pieces = OverlappedPieces(window, trim, isolated=False, step=step)
        self.core = ConditionedUNetCore(config)
        # These norms are over stems, whatever the batch; of one there is no deviation.
        has_norms = any(isinstance(part, nn.BatchNorm1d) for part in self.core.modules())
        self.fewest_stems = 2 if has_norms else 1

    def _leave_out_unneeded(self) -> None:
        self.core = self.core.only(self.stem_indices)
