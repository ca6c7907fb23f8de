"""Band-split RNN: one recurrent network per stem that looks along time and across bands in turn.

Luo, Yu: Music Source Separation with Band-Split RNN. IEEE/ACM TASLP 31, 2023. The network, its
whole-song framing and the band splits are those of the published weights (BandSplitRNN-PyTorch).

Letters: K bands, W features of a band and frame, M numbers of a band's frame (channels, then real
and imaginary parts, then bins).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from stemsplit.dsp.stft import Resynthesis, hann_window, stft
from stemsplit.models.base import (
    ChunkPlan,
    Encoded,
    ModelConfig,
    PerStem,
    Refine,
    SpectralModel,
)
from stemsplit.models.blocks.framewise import by_sequences

Splits = tuple[tuple[int, int], ...]
"""(end, step) pairs in Hz: from the last end, bands of `step` up to `end`; one more above all."""

V7: Splits = ((1000, 100), (4000, 250), (8000, 500), (16000, 1000), (20000, 2000))
BASS: Splits = ((500, 50), (1000, 100), (4000, 500), (8000, 1000), (16000, 2000))
DRUMS: Splits = ((1000, 50), (2000, 100), (4000, 250), (8000, 500), (16000, 1000))
PUBLISHED_SPLITS = {"bass": BASS, "drums": DRUMS}
"""By stem; every other stem has V7."""

DEVIATION_EPS = 1e-5
HEADS = 4
BATCH = 4
"""How many windows of a song go through a network at once in the original framing."""


@dataclass(frozen=True)
class BandSplitRNNConfig(ModelConfig):
    """What the original's `hparams.yaml` may say, and what a trainer may choose.

    Attributes:
        n_fft: Transform length, in samples.
        hop_length: Distance between frames, in samples.
        splits: How each stem's spectrum is cut into bands, in the order of `stems`; none for the
            published splits.
        frames: N, how many frames the network takes: never more or fewer.
        width: W, features of a band and frame.
        hidden_size: Of each direction of the recurrent layers.
        mask_hidden_size: Between a band's features and its mask.
        layers: Pairs of a module along time and one across bands.
        bottleneck: "rnn", or "attention": each module has an attention before its LSTM.
        cell: What recurs in the "rnn" modules.
        bidirectional: Whether that also looks back from the end.
        mapping: The network's output is the stem itself, not a mask.
        advance: Samples between the windows of the original framing.
        window: What weighs those windows before they are summed: "even", one constant; or "hann".
    """

    n_fft: int = 2048
    hop_length: int = 512
    splits: tuple[Splits, ...] = ()
    frames: int = 263
    width: int = 128
    hidden_size: int = 256
    mask_hidden_size: int = 512
    layers: int = 12
    bottleneck: Literal["rnn", "attention"] = "rnn"
    cell: Literal["lstm", "gru"] = "lstm"
    bidirectional: bool = True
    mapping: bool = False
    advance: int = 23894
    window: Literal["even", "hann"] = "even"

    @property
    def samples(self) -> int:
        """How many samples have as many frames as the network takes."""
        return (self.frames - 1) * self.hop_length

    def find_bands(self, stem: str) -> list[int]:
        """Return how many bins each of a stem's bands has, from the lowest; F in all.

        Raises:
            ValueError: A band has no bins, or there are not as many splits as stems.
        """
        if self.splits and len(self.splits) != len(self.stems):
            raise ValueError(f"{len(self.splits)} band splits for {len(self.stems)} stems")
        splits = (
            self.splits[self.stems.index(stem)] if self.splits else PUBLISHED_SPLITS.get(stem, V7)
        )
        ends, start_hz = [0], 0
        for end_hz, step_hz in splits:
            for hz in range(start_hz + step_hz, end_hz + step_hz, step_hz):
                # As many bins as lie below `hz`: bin k is at k * sample_rate / n_fft.
                ends.append(-(-hz * self.n_fft // self.sample_rate))
            start_hz = end_hz
        ends.append(self.n_fft // 2 + 1)
        bins = [end - start for start, end in pairwise(ends)]
        if min(bins) < 1:
            raise ValueError(f"band {bins.index(min(bins))} of {stem} has no bins")
        return bins

    @classmethod
    def tiny(cls, stems: tuple[str, ...]) -> Self:
        """Return a network of a few thousand parameters on 0.2 s."""
        return cls(
            stems,
            n_fft=256,
            hop_length=128,
            splits=(((4000, 2000),),) * len(stems),
            frames=33,
            width=4,
            hidden_size=5,
            mask_hidden_size=6,
            layers=1,
            advance=3001,
        )


class BandIn(nn.Module):
    """Section II-A: a band's frames become features.

    Shape: (B, M, N) -> (B, N, W).
    """

    def __init__(self, numbers: int, frames: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((numbers, frames))
        self.fc = nn.Linear(numbers, width)

    def forward(self, band: Tensor) -> Tensor:
        """Shape: (B, M, N) -> (B, N, W)."""
        features: Tensor = self.fc(self.norm(band).transpose(1, 2))
        return features


class Recurrent(nn.Module):
    """Section II-B: norm, recurrent layer and linear layer, added to what came in.

    Shape: (B, L, W) -> (B, L, W), along L.
    """

    def __init__(self, config: BandSplitRNNConfig) -> None:
        super().__init__()
        kind = nn.LSTM if config.cell == "lstm" else nn.GRU
        # As many groups as features: each is normalised over the sequence.
        self.norm = nn.GroupNorm(config.width, config.width)
        self.rnn = kind(
            config.width,
            config.hidden_size,
            batch_first=True,
            bidirectional=config.bidirectional,
        )
        ways = 2 if config.bidirectional else 1
        self.fc = nn.Linear(ways * config.hidden_size, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, L, W) -> (B, L, W)."""
        level = self.norm(x.transpose(1, 2)).transpose(1, 2)
        result: Tensor = self.fc(self.rnn(level)[0]) + x
        return result


class Attentive(nn.Module):
    """The original's other module: attention, then an LSTM, each added to what came in.

    Chen, Mao, Liu: Dual-path transformer network. Interspeech 2020.

    Shape: (B, L, W) -> (B, L, W), along L.
    """

    def __init__(self, config: BandSplitRNNConfig) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(config.width, HEADS, batch_first=True)
        self.rnn = nn.LSTM(config.width, config.hidden_size, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * config.hidden_size, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, L, W) -> (B, L, W)."""
        x = self.attention(x, x, x, need_weights=False)[0] + x
        result: Tensor = self.fc(self.rnn(x)[0]) + x
        return result


class Interleaved(nn.Module):
    """One module along time, then one across bands. Without gradients the input may be overwritten.

    Shape: (B, K, N, W) -> (B, K, N, W).
    """

    def __init__(self, config: BandSplitRNNConfig) -> None:
        super().__init__()
        kind = Recurrent if config.bottleneck == "rnn" else Attentive
        self.time = kind(config)
        self.bands = kind(config)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, K, N, W) -> (B, K, N, W)."""
        batch = x.shape[0]
        for module in (self.time, self.bands):
            x = by_sequences(module, x.flatten(0, 1), training=self.training)
            x = x.unflatten(0, (batch, -1)).transpose(1, 2)
        return x


class BandOut(nn.Module):
    """Section II-C: a band's features become its mask.

    Shape: (B, N, W) -> (B, M, N).
    """

    def __init__(self, numbers: int, config: BandSplitRNNConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((config.frames, config.width))
        self.fc1 = nn.Linear(config.width, config.mask_hidden_size)
        self.fc2 = nn.Linear(config.mask_hidden_size, numbers)
        self.gate = nn.Linear(numbers, 2 * numbers)

    def forward(self, features: Tensor) -> Tensor:
        """Shape: (B, N, W) -> (B, M, N)."""
        x = self.fc2(torch.tanh(self.fc1(self.norm(features))))
        return functional.glu(self.gate(x), dim=-1).transpose(1, 2)


class BandSplitRNNNet(nn.Module):
    """One stem's network.

    Shape: mixture (B, C, 2, F, N), real and imaginary parts -> stem (B, C, 2, F, N).
    """

    def __init__(self, config: BandSplitRNNConfig, stem: str) -> None:
        super().__init__()
        self.mapping = config.mapping
        self.bins = config.find_bands(stem)
        numbers = [2 * config.channels * bins for bins in self.bins]
        self.split = nn.ModuleList(BandIn(count, config.frames, config.width) for count in numbers)
        self.sequence = nn.ModuleList(Interleaved(config) for _ in range(config.layers))
        self.masks = nn.ModuleList(BandOut(count, config) for count in numbers)

    def forward(self, mixture: Tensor) -> Tensor:
        """Shape: (B, C, 2, F, N) -> (B, C, 2, F, N)."""
        parts = [self.separate(part) for part in mixture.split(BATCH)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def separate(self, mixture: Tensor) -> Tensor:
        """Normalise, mask and undo the normalisation. Shape: (B, C, 2, F, N), the same."""
        # Of complex numbers: the mean is one, the deviation is real.
        mean = mixture.mean(dim=(1, 3, 4), keepdim=True)
        level = mixture - mean
        count = level[0].numel() // 2
        variance = level.square().sum(dim=(1, 2, 3, 4), keepdim=True) / (count - 1)
        deviation = variance.sqrt()
        level = level / (deviation + DEVIATION_EPS)
        mask = self.estimate_mask(level)
        return (mask if self.mapping else _multiply(mask, level)) * deviation + mean

    def estimate_mask(self, level: Tensor) -> Tensor:
        """Shape: normalised (B, C, 2, F, N) -> complex mask (B, C, 2, F, N)."""
        bands = level.split(self.bins, dim=3)
        x = torch.stack(
            [module(band.flatten(1, 3)) for module, band in zip(self.split, bands, strict=True)],
            dim=1,
        )
        for pair in self.sequence:
            x = pair(x)
        masks = [
            module(features).unflatten(1, (*level.shape[1:3], -1))
            for module, features in zip(self.masks, x.unbind(1), strict=True)
        ]
        return torch.cat(masks, dim=3)


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """Multiply complex numbers. Shape: (B, C, 2, F, N), (B, C, 2, F, N) -> (B, C, 2, F, N)."""
    left_re, left_im = left.unbind(2)
    right_re, right_im = right.unbind(2)
    return torch.stack(
        (left_re * right_re - left_im * right_im, left_re * right_im + left_im * right_re), dim=2
    )


class Windows(NamedTuple):
    """What `encode` carries over to `decode`.

    Attributes:
        spectrum: Complex, of every window; those of an item lie together. Shape (B * R, C, F, N).
        batch: B.
        heard: Where the song lies in what the windows cover.
    """

    spectrum: Tensor
    batch: int
    heard: slice


class BandSplitRNN(SpectralModel):
    """Band-split RNN: every stem alone, by a complex mask.

    The norms have a weight for every frame, so the network takes one length only. Anything else is
    a song, which is cut as the original cuts it: windows every `advance` samples, from silence to
    silence, weighted and summed. Their weights do not quite add up to a constant (5 or 6 windows of
    equal weight meet where the published advance divides by 5.6; "hann" adds up to 2.8): the
    default framing's cross-fade does.
    """

    Config = BandSplitRNNConfig
    config: BandSplitRNNConfig
    core: PerStem

    def __init__(self, config: BandSplitRNNConfig) -> None:
        super().__init__(config)
        self.n_fft = config.n_fft
        self.hop_length = config.hop_length
        self.chunk = ChunkPlan(
            config.samples,
            overlap=0.25,
            edge_samples=max(config.n_fft // 2, config.samples // 16),
            multiple_of=config.hop_length,
            fixed=True,
        )
        self.core = PerStem({stem: BandSplitRNNNet(config, stem) for stem in config.stems})

    def _leave_out_unneeded(self) -> None:
        self.core = self.core.only(self.stems)

    def encode(self, mixture: Tensor) -> Encoded:
        """Take one chunk as it is, cut anything else as the original does; transform."""
        batch, _, samples = mixture.shape
        padding = self._find_padding(samples)
        windows = functional.pad(mixture, padding)
        windows = windows.unfold(2, self.config.samples, self.config.advance)
        spectrum = stft(windows.transpose(1, 2).flatten(0, 1), self.n_fft, self.hop_length)
        heard = slice(padding[0], padding[0] + samples)
        return Encoded(self.core_inputs(spectrum), Windows(spectrum, batch, heard))

    def _find_padding(self, samples: int) -> tuple[int, int]:
        """Return how many zeros stand before and behind a song or a chunk."""
        length, advance = self.config.samples, self.config.advance
        # The last chunk of a song may lack less than a hop.
        if 0 <= length - samples < self.hop_length:
            return 0, length - samples
        shared = length - advance
        # The original has one window more, of silence, where this leaves no remainder.
        return shared, shared - (samples + 2 * shared - length) % -advance

    def core_inputs(self, mixture: Tensor) -> tuple[Tensor, ...]:
        """Take real and imaginary parts. Shape: (B, C, F, N) -> (B, C, 2, F, N)."""
        return (torch.view_as_real(mixture).movedim(-1, 2).contiguous(),)

    def estimate(self, outputs: Sequence[Tensor], mixture: Tensor) -> Tensor:
        """Join real and imaginary parts. Shape: (B, S, C, 2, F, N) -> (B, S, C, F, N)."""
        (stems,) = outputs
        return torch.view_as_complex(stems.movedim(3, -1).contiguous())

    def decode(
        self, outputs: tuple[Tensor, ...], carry: Any, refine: Refine | None = None
    ) -> Tensor:
        """Transform the windows back, weigh and sum them. See `StemModel.decode`."""
        (stems,) = outputs
        parts = []
        # A song's windows hold it five times over: only a few are there in all forms at once.
        for part, spectrum in zip(stems.split(BATCH), carry.spectrum.split(BATCH), strict=True):
            resynthesis = Resynthesis(self.hop_length, spectrum.shape[-1])
            for estimates in self.estimate_in_turn((part,), spectrum, refine):
                resynthesis.add(estimates)
            parts.append(resynthesis.finish(self.config.samples))
        windows = torch.cat(parts).unflatten(0, (carry.batch, -1))
        return self._join(windows)[..., carry.heard]

    def _join(self, windows: Tensor) -> Tensor:
        """Weigh and sum a song's windows. Shape: (B, R, S, C, n) -> (B, S, C, T')."""
        count, length, advance = windows.shape[1], self.config.samples, self.config.advance
        if count == 1:
            return windows[:, 0]
        if self.config.window == "hann":
            windows = windows * hann_window(length, windows)
        else:
            windows = windows * (advance / length)
        total = windows.new_zeros(
            windows.shape[0], *windows.shape[2:4], (count - 1) * advance + length
        )
        for index, window in enumerate(windows.unbind(1)):
            start = index * advance
            total[..., start : start + length] += window
        return total
