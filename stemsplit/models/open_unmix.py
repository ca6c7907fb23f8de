"""Open-Unmix: one recurrent network per stem, which masks the magnitude spectrogram.

Stöter, Uhlich, Liutkus, Mitsufuji: Open-Unmix, a reference implementation for music source
separation. JOSS 4(41), 2019. The published sets umx, umxhq and umxl differ in data and width alone;
those that were trained in NNabla have the same network in another layout, and another post-filter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import Self

from stemsplit.dsp.stft import magnitudes
from stemsplit.dsp.wiener import Wiener
from stemsplit.models.base import ChunkPlan, ModelConfig, PerStem, SpectralModel
from stemsplit.models.blocks.norm_places import NormPlace, behind

LSTM_DROPOUT = 0.4


@dataclass(frozen=True)
class OpenUnmixConfig(ModelConfig):
    """What differs between the published sets, and what a trainer may choose.

    Attributes:
        n_fft: Transform length, in samples.
        hop_length: Distance between frames, in samples.
        hidden_size: Width between the layers; each direction of the LSTM has half of it.
        layers: Of the LSTM.
        bandwidth_hz: The network looks at frequencies up to this one, and masks all of them.
        filter_frames: How many frames share the Wiener filter's statistics in the original framing;
            0 for the whole song, as in NNabla.
        filter_eps: That filter's regularisation; norbert's, in NNabla, is 2.2e-16.
    """

    n_fft: int = 4096
    hop_length: int = 1024
    hidden_size: int = 512
    layers: int = 3
    bandwidth_hz: float = 16000.0
    filter_frames: int = 300
    filter_eps: float = 1e-10

    @property
    def bins(self) -> int:
        """F: how many bins a frame has, and how many the network masks."""
        return self.n_fft // 2 + 1

    @property
    def seen_bins(self) -> int:
        """How many bins the network looks at: those at or below the bandwidth."""
        return min(self.bins, int(self.bandwidth_hz * self.n_fft / self.sample_rate) + 1)

    @classmethod
    def tiny(cls, stems: tuple[str, ...]) -> Self:
        """Return a network of some ten thousand parameters."""
        return cls(stems, n_fft=256, hop_length=64, hidden_size=16, layers=2)


class OpenUnmixNet(nn.Module):
    """One stem's network.

    Shape: magnitude (B, C, F, N) -> mask (B, C, F, N), 0 or more.
    """

    def __init__(self, config: OpenUnmixConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.seen_bins = config.seen_bins
        self.bins = config.bins
        # Stored so that they are added and multiplied: minus the mean, one over the deviation.
        self.input_mean = nn.Parameter(torch.zeros(config.seen_bins))
        self.input_scale = nn.Parameter(torch.ones(config.seen_bins))
        self.output_mean = nn.Parameter(torch.ones(config.bins))
        self.output_scale = nn.Parameter(torch.ones(config.bins))
        self.fc1 = nn.Linear(config.channels * config.seen_bins, hidden, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.lstm = nn.LSTM(
            hidden,
            hidden // 2,
            num_layers=config.layers,
            bidirectional=True,
            dropout=LSTM_DROPOUT if config.layers > 1 else 0.0,
        )
        self.fc2 = nn.Linear(2 * hidden, hidden, bias=False)
        self.bn2 = nn.BatchNorm1d(hidden)
        self.fc3 = nn.Linear(hidden, config.channels * config.bins, bias=False)
        self.bn3 = nn.BatchNorm1d(config.channels * config.bins)

    def forward(self, magnitude: Tensor) -> Tensor:
        """Shape: (B, C, F, N) -> (B, C, F, N)."""
        seen = self.look(magnitude)
        return self.mask(torch.cat((seen, self.remember(seen)), dim=-1))

    def look(self, magnitude: Tensor) -> Tensor:
        """Reduce every frame to a few features. Shape: (B, C, F, N) -> (N, B, hidden)."""
        batch, _, _, frames = magnitude.shape
        x = magnitude[:, :, : self.seen_bins].permute(3, 0, 1, 2)
        # (x + mean) * scale, in one pass over x.
        x = torch.addcmul(self.input_mean * self.input_scale, x, self.input_scale)
        x = torch.tanh(self.bn1(self.fc1(x.reshape(frames * batch, -1))))
        return x.reshape(frames, batch, -1)

    def remember(self, seen: Tensor) -> Tensor:
        """Look back and ahead in time. Shape: (N, B, hidden) -> (N, B, hidden)."""
        remembered: Tensor = self.lstm(seen)[0]
        return remembered

    def mask(self, features: Tensor) -> Tensor:
        """Make the mask of all bins. Shape: (N, B, 2 hidden) -> (B, C, F, N)."""
        frames, batch, _ = features.shape
        x = torch.relu(self.bn2(self.fc2(features.flatten(0, 1))))
        x = self.bn3(self.fc3(x)).reshape(frames, batch, -1, self.bins)
        mask = torch.addcmul(self.output_mean, x, self.output_scale).relu_()
        return mask.permute(1, 2, 3, 0)

    def norm_places(self) -> Iterator[NormPlace]:
        """Say what the norms read. See `stemsplit.models.blocks.norm_places`."""
        yield behind(self.fc1, self.bn1)
        yield behind(self.fc2, self.bn2)
        yield behind(self.fc3, self.bn3)


class MaskNets(PerStem):
    """Open-Unmix's networks, whose masks are stacked as they lie in memory.

    Shape: magnitude (B, C, F, N) -> masks (B, S, C, F, N), 0 or more.
    """

    def forward(self, *inputs: Tensor) -> Tensor:
        """Shape: (B, C, F, N) -> (B, S, C, F, N)."""
        return self.stack([net(*inputs) for net in self.nets.values()])

    @staticmethod
    def stack(masks: Sequence[Tensor]) -> Tensor:
        """Stack masks without turning them: bin after bin, as in the mixture's frames.

        Shape: (B, C, F, N) each -> (B, S, C, F, N).
        """
        return torch.stack([mask.permute(3, 0, 1, 2) for mask in masks]).permute(2, 0, 3, 4, 1)


class OpenUnmix(SpectralModel):
    """Open-Unmix: every stem alone, with the mixture's phase."""

    Config = OpenUnmixConfig
    config: OpenUnmixConfig
    core: PerStem

    def __init__(self, config: OpenUnmixConfig) -> None:
        super().__init__(config)
        self.n_fft = config.n_fft
        self.hop_length = config.hop_length
        # The LSTM ran over whole songs, and learned from six seconds: twenty, of which a second at
        # either end only warms it up, are near the former.
        samples = 20 * config.sample_rate // config.hop_length * config.hop_length
        self.chunk = ChunkPlan(
            samples,
            overlap=0.125,
            edge_samples=config.sample_rate,
            multiple_of=config.hop_length,
        )
        self.original_wiener = Wiener(
            window_frames=config.filter_frames or None, eps=config.filter_eps
        )
        self.core = self._build_core()

    def _build_core(self) -> PerStem:
        return MaskNets({stem: OpenUnmixNet(self.config) for stem in self.config.stems})

    def _leave_out_unneeded(self) -> None:
        self.core = self.core.only(self.stems)

    def core_inputs(self, mixture: Tensor) -> tuple[Tensor, ...]:
        """Take the magnitude. Shape: (B, C, F, N) -> (B, C, F, N)."""
        return (magnitudes(mixture),)

    def estimate(self, outputs: Sequence[Tensor], mixture: Tensor) -> Tensor:
        """Apply the masks. Shape: (B, S, C, F, N), (B, C, F, N) -> (B, S, C, F, N)."""
        (masks,) = outputs
        # Real pairs: a complex product would multiply by zeros too.
        parts = torch.view_as_real(mixture).unsqueeze(1) * masks.unsqueeze(-1)
        return torch.view_as_complex(parts)

    def estimate_magnitudes(self, outputs: Sequence[Tensor], mixture: Tensor) -> Tensor:
        """Apply the masks without a phase. Shape: see `estimate`."""
        (masks,) = outputs
        return masks * mixture.abs().unsqueeze(1)
