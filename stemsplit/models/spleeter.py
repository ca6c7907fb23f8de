"""Spleeter's U-Nets: one per stem on magnitudes, joined by a ratio mask.

Hennequin, Khlif, Voituret, Moussallam: Spleeter: a fast and efficient music source separation tool
with pre-trained models. JOSS 5(50), 2020. The network is that of Jansson et al., Singing voice
separation with deep U-Net convolutional networks, ISMIR 2017, made wider.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from stemsplit.dsp.memory import is_recorded, stack
from stemsplit.dsp.stft import magnitudes
from stemsplit.models.base import ChunkPlan, ModelConfig, SpectralModel
from stemsplit.models.blocks.fusion import Fusion

BAND_BINS = 1024
NORM_EPS = 1e-3
MASK_EPS = 1e-10
EDGE_FRAMES = 32
"""So far from a segment's ends a steady sound may fall out of its stem (benchmarks/seams.py)."""
RAMP_FRAMES = 12


@dataclass(frozen=True)
class SpleeterConfig(ModelConfig):
    """What differs between the published sets.

    Attributes:
        activation: "leaky_relu": slope 0.2 going down and ReLU coming up (2 stems); "elu": ELU both
            ways (4 and 5 stems).
        head: "sigmoid": every net scales the mixture on its own (2 and 4 stems); "softmax": the
            nets' outputs share it (5 stems).
        widths: Channels of the six levels.
        segment_frames: How many frames a network sees at once; divides by 64.
        extension: What the masks are above the networks' band (11 kHz): each frame's "average" over
            the band, or "zeros", as published.
    """

    activation: Literal["leaky_relu", "elu"] = "leaky_relu"
    head: Literal["sigmoid", "softmax"] = "sigmoid"
    extension: Literal["average", "zeros"] = "average"
    widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    segment_frames: int = 512

    @classmethod
    def tiny(cls, stems: tuple[str, ...]) -> Self:
        """Return a network of a few thousand parameters on 1.5 s."""
        return cls(stems, widths=(2, 3, 4, 5, 6, 7), segment_frames=64)


class Down(nn.Module):
    """Halve both axes by a 5x5 convolution of stride 2, padded as TensorFlow's "same" is."""

    def __init__(self, wide_in: int, wide_out: int, activation: nn.Module | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(wide_in, wide_out, 5, stride=2)
        self.norm: nn.Module = nn.Identity()
        self.activation: nn.Module = nn.Identity()
        if activation is not None:
            self.norm = nn.BatchNorm2d(wide_out, eps=NORM_EPS, momentum=0.01)
            self.activation = activation

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bare convolution, for the mirrored level, and what goes down from here.

        Shape: (B, C_in, H, W) -> twice (B, C_out, H / 2, W / 2).
        """
        # Stride 2, kernel 5, even length: "same" puts one zero before and two behind.
        bare = self.conv(functional.pad(x, (1, 2, 1, 2)))
        return bare, self.activation(self.norm(bare))

    def fusion(self) -> Fusion:
        """Say what is computed. See `stemsplit.models.blocks.fusion`."""
        behind = (self.norm, self.activation)
        return Fusion(self.conv, behind=behind, zeros=(1, 2, 1, 2), gives_bare=True)


class SameConvTranspose2d(nn.ConvTranspose2d):
    """A transposed 5x5 convolution of stride 2, cut as TensorFlow's "same" is.

    Shape: (B, C_in, H, W) -> (B, C_out, 2H, 2W).
    """

    def __init__(self, wide_in: int, wide_out: int) -> None:
        super().__init__(wide_in, wide_out, 5, stride=2, padding=1)
        # The whole has 2n + 3 rows; "same" keeps those from 1 to 2n, which is one less than torch
        # gives: a negative output padding, of which its own function knows nothing.
        self.output_padding = (-1, -1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Shape: (B, C_in, H, W) -> (B, C_out, 2H, 2W)."""
        assert output_size is None, "the size follows from the input's"
        wide = functional.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)
        return wide[..., :-1, :-1]


class Up(nn.Module):
    """Double both axes: transposed 5x5 convolution, activation, then norm.

    Shape: (B, C_in, H, W) -> (B, C_out, 2H, 2W).
    """

    def __init__(self, wide_in: int, wide_out: int, activation: nn.Module) -> None:
        super().__init__()
        self.conv = SameConvTranspose2d(wide_in, wide_out)
        self.activation = activation
        self.norm = nn.BatchNorm2d(wide_out, eps=NORM_EPS, momentum=0.01)

    def forward(self, *parts: Tensor) -> Tensor:
        """Shape: (B, C_in, H, W), in any number of parts -> (B, C_out, 2H, 2W)."""
        result: Tensor = self.norm(self.activation(self.conv(torch.cat(parts, dim=1))))
        return result

    def fusion(self) -> Fusion:
        """Say what is computed. See `stemsplit.models.blocks.fusion`."""
        return Fusion(self.conv, behind=(self.activation, self.norm))


class UNet(nn.Module):
    """One stem's network, up to but without its head.

    Shape: magnitude (B, C, N, F) -> logits (B, C, N, F); N and F must divide by 64.
    """

    def __init__(self, channels: int, activation: str, widths: Sequence[int]) -> None:
        super().__init__()
        elu = activation == "elu"
        down_activation = nn.ELU(inplace=True) if elu else nn.LeakyReLU(0.2, inplace=True)
        up_activation = nn.ELU(inplace=True) if elu else nn.ReLU(inplace=True)
        deepest = len(widths) - 1
        self.down = nn.ModuleList(
            Down(wide_in, wide_out, None if level == deepest else down_activation)
            for level, (wide_in, wide_out) in enumerate(pairwise((channels, *widths)))
        )
        outs = (*reversed(widths[:-1]), 1)
        ins = (widths[-1], *(2 * wide for wide in outs[:-1]))
        self.up = nn.ModuleList(
            Up(wide_in, wide_out, up_activation)
            for wide_in, wide_out in zip(ins, outs, strict=True)
        )
        self.dropout = nn.Dropout(0.5)
        self.out = nn.Conv2d(1, channels, 4, dilation=2, padding=3)

    def forward(self, magnitude: Tensor) -> Tensor:
        """Shape: (B, C, N, F) -> (B, C, N, F)."""
        skips = []
        x = magnitude
        for level in self.down:
            bare, x = level(x)
            skips.append(bare)
        # The deepest convolution goes up as it is, without norm or activation.
        x = self.dropout(self.up[0](skips.pop()))
        for depth, level in enumerate(self.up[1:], start=1):
            x = level(skips.pop(), x)
            x = self.dropout(x) if depth < 3 else x
        result: Tensor = self.out(x)
        return result


class SpleeterCore(nn.Module):
    """All stems' U-Nets and the head that turns their outputs into magnitudes.

    Shape: (B, C, N, F) -> (B, S, C, N, F).
    """

    def __init__(self, config: SpleeterConfig) -> None:
        super().__init__()
        self.head = config.head
        self.nets = nn.ModuleDict(
            {stem: UNet(config.channels, config.activation, config.widths) for stem in config.stems}
        )

    def forward(self, magnitude: Tensor) -> Tensor:
        """Shape: (B, C, N, F) -> (B, S, C, N, F)."""
        nets = [net(magnitude) for net in self.nets.values()]
        if self.head == "softmax":
            return torch.stack(nets, dim=1).softmax(dim=1) * magnitude.unsqueeze(1)
        if is_recorded(*nets) or nets[0].dtype != magnitude.dtype:
            return torch.stack([one.sigmoid() * magnitude for one in nets], dim=1)
        # Nobody looks back: the nets' outputs are written over by what follows.
        return stack([one.sigmoid_().mul_(magnitude) for one in nets])


class Spleeter(SpectralModel):
    """Spleeter with 2, 4, 5 or any number of stems.

    Every stem's mask divides by the estimates of all of them, so all networks run whichever stems
    are asked for.
    """

    Config = SpleeterConfig
    config: SpleeterConfig
    n_fft = 4096
    hop_length = 1024
    pad_mode = "constant"
    frame_axis = -2

    def __init__(self, config: SpleeterConfig) -> None:
        super().__init__(config)
        # As many frames as the networks were trained on, and no segment that is part zeros.
        frames = config.segment_frames - 1
        edge = min(EDGE_FRAMES, frames // 8)
        self.chunk = ChunkPlan(
            frames * self.hop_length,
            (2 * edge + RAMP_FRAMES) / frames,
            edge_samples=edge * self.hop_length,
            multiple_of=self.hop_length,
            fixed=True,
        )
        self.core = SpleeterCore(config)
        # Each bin is shared out; above the networks' band it is so by the average of shares.
        self.adds_up = config.extension == "average"

    def core_inputs(self, mixture: Tensor) -> tuple[Tensor, ...]:
        """Cut the magnitudes to the band and to segments, zeros behind the last.

        Shape: (B, C, F, N) -> (B * K, C, N_segment, 1024), K segments.
        """
        channels, frames = mixture.shape[1], mixture.shape[3]
        wide = self.config.segment_frames
        magnitude = magnitudes(mixture[:, :, :BAND_BINS]).transpose(2, 3)
        if missing := -frames % wide:
            magnitude = functional.pad(magnitude, (0, 0, 0, missing))
        segments = magnitude.unflatten(2, (-1, wide)).transpose(1, 2)
        return (segments.reshape(-1, channels, wide, BAND_BINS),)

    def split_outputs(
        self, outputs: tuple[Tensor, ...], mixture: Tensor
    ) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Yield a few frames of one segment at a time. See `SpectralModel.split_outputs`."""
        segments = outputs[0].unflatten(0, (mixture.shape[0], -1)).unbind(1)
        parts = mixture.split(self.config.segment_frames, dim=-1)
        for segment, part in zip(segments, parts, strict=True):
            yield from super().split_outputs((segment,), part)

    def estimate(self, outputs: tuple[Tensor, ...], mixture: Tensor) -> Tensor:
        """Mask the mixture by each stem's share of the squared magnitudes.

        Shape: (B * K, S, C, N_segment, 1024), (B, C, F, N) -> (B, S, C, F, N).
        """
        batch, _, bins, frames = mixture.shape
        (given,) = outputs
        # Channels may lie side by side in memory; frames are what is transformed.
        power = given.contiguous().square()
        total = power.sum(dim=1, keepdim=True).add_(MASK_EPS)
        wanted = power if self.stems == self.config.stems else power[:, self.stem_indices]
        masks = (wanted + MASK_EPS / len(self.config.stems)).div_(total)
        segments = masks.unflatten(0, (batch, -1)).transpose(1, 2).transpose(2, 3)
        masks = segments.flatten(3, 4)[:, :, :, :frames]
        # A transform's frames lie in memory one after the other: mask them in that order.
        gains = masks.new_zeros(*masks.shape[:4], bins)
        gains[..., :BAND_BINS] = masks
        if self.config.extension == "average":
            gains[..., BAND_BINS:] = masks.mean(dim=-1, keepdim=True)
        masked: Tensor = mixture.transpose(2, 3).unsqueeze(1) * gains
        return masked.transpose(3, 4)
