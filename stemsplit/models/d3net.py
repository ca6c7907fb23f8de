"""D3Net: one network per stem, whose receptive field grows without gaps.

Takahashi, Mitsufuji: Densely connected multidilated convolutional networks for dense prediction
tasks. CVPR 2021. Bands of the spectrum have networks of their own beside one for all of it; what
they give is joined, gated, and is the stem's magnitude itself, not a mask.

Letters: B batch, S stems, C channels, F bins, N frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from stemsplit.dsp.memory import cat
from stemsplit.dsp.rank_one_wiener import RankOneWiener
from stemsplit.dsp.stft import magnitudes
from stemsplit.models.base import ChunkPlan, ModelConfig, PerStem, SpectralModel
from stemsplit.models.blocks.multidilated import BranchSizes, Dense, MultiScale
from stemsplit.models.blocks.norm_places import NormPlace, before, behind_sum

PIXELS_AT_ONCE = 2**19
"""Frames times bins that go through a network together: one patch of the published sizes."""


@dataclass(frozen=True)
class NetSizes:
    """One stem's network.

    Attributes:
        splits: Bins at which a band ends and the next begins.
        bands: Of each band's branch, from the lowest.
        full: Of the branch that sees all bands.
        final_growth: Channels of the block that joins the branches.
        final_layers: Of that block.
        patch_frames: What the network sees at once in the original framing.
    """

    splits: tuple[int, ...]
    bands: tuple[BranchSizes, ...]
    full: BranchSizes
    final_growth: int = 12
    final_layers: int = 3
    patch_frames: int = 256

    def __post_init__(self) -> None:
        # A registry has lists and tables in these places.
        object.__setattr__(self, "splits", tuple(self.splits))
        object.__setattr__(self, "bands", tuple(_read(BranchSizes, band) for band in self.bands))
        object.__setattr__(self, "full", _read(BranchSizes, self.full))
        if len(self.bands) != len(self.splits) + 1:
            raise ValueError(f"{len(self.splits)} splits do not make {len(self.bands)} bands")

    @property
    def step(self) -> int:
        """What the number of frames must divide by."""
        return int(2 ** max(sizes.depth for sizes in (*self.bands, self.full)))


def _read(kind: type, value: object) -> object:
    return kind(**value) if isinstance(value, Mapping) else value


def _two_bands(
    split: int, low: BranchSizes, full: BranchSizes, *, depth: int = 2, **more: int
) -> NetSizes:
    """Return published sizes: the high band's are the same in all but depth."""
    count = 2 * depth + 1
    high = BranchSizes(8, (2,) * count, (1,) * count, blocks=1)
    return NetSizes((split,), (low, high), full, **more)


_LOW = BranchSizes(32, (16, 18, 20, 22, 20, 18, 16), (5, 5, 5, 5, 4, 4, 4), blocks=2)
_FULL = BranchSizes(32, (13, 14, 15, 16, 17, 16, 14, 12, 11), (4, 5, 6, 7, 8, 6, 5, 4, 4), blocks=2)
_VOCALS = _two_bands(256, _LOW, _FULL)
_LOW_DRUMS = BranchSizes(32, _LOW.growth, (5, 5, 5, 4, 4, 4, 4), blocks=2)
_FULL_DRUMS = BranchSizes(
    32, (13, 14, 15, 16, 16, 16, 14, 12, 11), (4, 5, 6, 7, 8, 6, 6, 4, 4), blocks=2
)
_GROWTH_BASS = (16, 18, 18, 20, 18, 16, 16)
_GROWTH_FULL_BASS = (10, 10, 12, 14, 16, 14, 12, 8, 8)

PUBLISHED: Mapping[str, Mapping[str, NetSizes]] = MappingProxyType(
    {
        "2021-10": {
            "drums": _two_bands(128, _LOW_DRUMS, _FULL_DRUMS),
            "bass": _two_bands(
                192,
                BranchSizes(32, _GROWTH_BASS, _LOW.layers, blocks=2),
                BranchSizes(32, _GROWTH_FULL_BASS, _FULL_DRUMS.layers, blocks=2),
                depth=3,
                patch_frames=384,
            ),
        },
        "2021-06": {
            "drums": _two_bands(128, _LOW_DRUMS, _FULL),
            "bass": _two_bands(
                192,
                BranchSizes(32, _GROWTH_BASS, (4, 5, 5, 4, 4, 4, 4), blocks=2),
                BranchSizes(30, _GROWTH_FULL_BASS, (3, 3, 3, 5, 7, 5, 3, 2, 2), blocks=2),
                depth=3,
                final_growth=14,
                patch_frames=384,
            ),
            "other": _two_bands(
                256,
                BranchSizes(32, (14, 15, 16, 18, 16, 14, 14), (4, 5, 5, 6, 4, 4, 4), blocks=2),
                BranchSizes(
                    30,
                    (11, 12, 13, 14, 16, 14, 12, 11, 10),
                    (3, 4, 6, 7, 8, 5, 4, 3, 3),
                    blocks=2,
                ),
            ),
        },
    }
)
"""By release and stem; every other stem has the sizes of the vocals, which never changed."""


@dataclass(frozen=True)
class D3NetConfig(ModelConfig):
    """What differs between the published sets, and what a trainer may choose.

    Attributes:
        n_fft: Transform length, in samples.
        hop_length: Distance between frames, in samples.
        seen_bins: The network looks at and estimates these; the mixture's are taken above.
        release: Whose published sizes the networks have.
        nets: Other sizes, for each stem in the order of `stems`; none for the published ones.
        chunk_frames: What a network sees at once by default, as in training.
        flip_average: Average, in use, with what the network makes of swapped channels.
        pad_mode: What stands before the first and after the last sample.
    """

    n_fft: int = 4096
    hop_length: int = 1024
    seen_bins: int = 1600
    release: Literal["2021-10", "2021-06"] = "2021-10"
    nets: tuple[NetSizes, ...] = ()
    chunk_frames: int = 256
    flip_average: bool = True
    pad_mode: Literal["reflect", "constant"] = "reflect"

    def __post_init__(self) -> None:
        object.__setattr__(self, "nets", tuple(_read(NetSizes, net) for net in self.nets))

    @property
    def bins(self) -> int:
        """F: how many bins a frame has."""
        return self.n_fft // 2 + 1

    def find_sizes(self, stem: str) -> NetSizes:
        """Return the sizes of a stem's network.

        Raises:
            ValueError: There are not as many sizes as stems.
        """
        if self.nets and len(self.nets) != len(self.stems):
            raise ValueError(f"sizes of {len(self.nets)} networks for {len(self.stems)} stems")
        if self.nets:
            return self.nets[self.stems.index(stem)]
        return PUBLISHED[self.release].get(stem, _VOCALS)

    @classmethod
    def tiny(cls, stems: tuple[str, ...]) -> Self:
        """Return networks of a few thousand parameters, which differ in their patches."""
        nets = tuple(
            NetSizes(
                (32,),
                (
                    BranchSizes(4, (3, 4, 3), (2, 2, 2), blocks=2),
                    BranchSizes(3, (2, 2, 2), (1, 1, 1), blocks=1),
                ),
                BranchSizes(4, (2, 3, 2), (2, 3, 2), blocks=2),
                final_growth=4,
                final_layers=2,
                patch_frames=48 if stem == "bass" else 32,
            )
            for stem in stems
        )
        return cls(stems, n_fft=256, hop_length=128, seen_bins=96, nets=nets, chunk_frames=32)


class Match(nn.Module):
    """Bring a band's channels to another number: norm and a 1x1 convolution.

    Shape: (B, C_in, N, F) -> (B, C_out, N, F).
    """

    def __init__(self, wide_in: int, wide_out: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(wide_in)
        self.conv = nn.Conv2d(wide_in, wide_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C_in, N, F) -> (B, C_out, N, F)."""
        result: Tensor = self.conv(self.norm(x))
        return result

    def norm_places(self) -> Iterator[NormPlace]:
        """Say who reads the norm. See `stemsplit.models.blocks.norm_places`."""
        yield before(self.norm, self.conv)


class D3NetNet(nn.Module):
    """One stem's network, and the pieces in which it sees a song.

    Shape: magnitude (B, C, F, N) -> magnitude (B, C, F, N).
    """

    def __init__(self, config: D3NetConfig, sizes: NetSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.chunk_frames = config.chunk_frames
        self.flip_average = config.flip_average and config.channels > 1
        self.edges = (0, *sizes.splits, config.seen_bins)
        # Subtracted and divided by: the mean and the deviation.
        self.input_mean = nn.Parameter(torch.zeros(config.bins))
        self.input_deviation = nn.Parameter(torch.ones(config.bins))
        self.bands = nn.ModuleList(MultiScale(config.channels, band) for band in sizes.bands)
        widths = [band.growth[-1] for band in sizes.bands]
        self.match = nn.ModuleDict(
            {
                str(place): Match(wide, max(widths))
                for place, wide in enumerate(widths)
                if wide < max(widths)
            }
        )
        self.full = MultiScale(config.channels, sizes.full)
        joined = max(widths) + sizes.full.growth[-1]
        self.final = Dense(joined, sizes.final_growth, sizes.final_layers)
        self.norm = nn.BatchNorm2d(sizes.final_growth)
        self.gate = nn.Conv2d(sizes.final_growth, config.channels, 1)
        self.value = nn.Conv2d(sizes.final_growth, config.channels, 1)
        self.output_scale = nn.Parameter(torch.ones(config.seen_bins))
        self.output_bias = nn.Parameter(torch.ones(config.seen_bins))

    def forward(self, magnitude: Tensor) -> Tensor:
        """Estimate at once what has a chunk's frames, and anything else by the original's patches.

        Shape: (B, C, F, N) -> (B, C, F, N).
        """
        x = magnitude.transpose(2, 3)
        if self.training:
            return self._estimate_any(x).transpose(2, 3)
        if x.shape[2] == self.chunk_frames:
            return self._estimate_in_turn(x).transpose(2, 3)
        return self._estimate_by_patches(x).transpose(2, 3)

    def _estimate_any(self, x: Tensor) -> Tensor:
        """Estimate any number of frames in one go. Shape: (B, C, N, F) -> (B, C, N, F)."""
        frames = x.shape[2]
        padded = functional.pad(x, (0, 0, 0, -frames % self.sizes.step))
        return self.estimate(padded)[:, :, :frames]

    def _estimate_by_patches(self, x: Tensor) -> Tensor:
        """Estimate a song as the authors do: patches half a patch apart, and their plain average.

        The first begins half a patch before the song, in zeros. There are as many as the song
        has half patches, once it is filled up to whole ones: where it ends in the second half of
        one, what lies there is in a single patch and comes out at half its level. That is the
        original's; the Wiener filter after it takes most of it back.

        Shape: (B, C, N, F) -> (B, C, N, F).
        """
        batch, channels, frames, bins = x.shape
        wide = self.sizes.patch_frames
        shift = wide // 2
        padded = functional.pad(x, (0, 0, shift, wide - frames % wide))
        patches = padded.unfold(2, wide, shift).permute(0, 2, 1, 4, 3)
        count = patches.shape[1]
        estimates = self._estimate_in_turn(patches.reshape(-1, channels, wide, bins))
        halves = estimates.unflatten(0, (batch, count)).unflatten(3, (2, shift)).unbind(3)
        total = torch.cat((halves[0], torch.zeros_like(halves[0][:, :1])), dim=1)
        total[:, 1:] += halves[1]
        song = total.transpose(1, 2).flatten(2, 3)
        return song[:, :, shift : shift + frames] / 2

    def _estimate_in_turn(self, x: Tensor) -> Tensor:
        """Estimate a few at a time, each with its channels swapped too: memory stays small.

        Shape: (B, C, N, F) -> (B, C, N, F).
        """
        count = max(1, PIXELS_AT_ONCE // (x.shape[2] * x.shape[3]))
        parts = []
        for part in x.split(count):
            estimate = self._estimate_any(part)
            if self.flip_average:
                estimate = (estimate + self._estimate_any(part.flip(1)).flip(1)) / 2
            parts.append(estimate)
        return torch.cat(parts)

    def estimate(self, magnitude: Tensor) -> Tensor:
        """Run the network. Shape: (B, C, N, F) -> (B, C, N, F), N dividing by `sizes.step`."""
        if magnitude.device.type == "cpu":
            # So few channels are convolved in half the time where a pixel's lie side by side.
            magnitude = magnitude.contiguous(memory_format=torch.channels_last)
        seen = self.edges[-1]
        x = (magnitude[..., :seen] - self.input_mean[:seen]) / self.input_deviation[:seen]
        bands = []
        for place, (start, end) in enumerate(pairwise(self.edges)):
            band = self.bands[place](x[..., start:end])
            bands.append(self.match[str(place)](band) if str(place) in self.match else band)
        joined = cat((cat(bands, 3), self.full(x)), 1)
        x = self.norm(self.final(joined))
        x = torch.sigmoid(self.gate(x)) * self.value(x)
        x = functional.relu(x * self.output_scale + self.output_bias)
        return torch.cat((x, magnitude[..., seen:].to(x.dtype)), dim=3)

    def norm_places(self) -> Iterator[NormPlace]:
        """Say what the norms around the last block read.

        Its first reads the bands, beside one another, and behind their channels those of all.
        See `stemsplit.models.blocks.norm_places`.
        """
        yield behind_sum(self.norm, self.final.parts())
        bands: list[MultiScale] = list(self.bands)  # type: ignore[arg-type]  # a ModuleList forgets what it was given
        matches: dict[str, Match] = dict(self.match.items())  # type: ignore[arg-type]  # so does this
        runs = [(0, band.parts()) for place, band in enumerate(bands) if str(place) not in matches]
        runs += [(0, [(one.conv, 0, one.conv.out_channels)]) for one in matches.values()]
        wide = max(count for _, parts in runs for *_, count in parts)
        runs.append((wide, self.full.parts()))
        yield self.final.first_norm, runs, ()


class D3Net(SpectralModel):
    """D3Net: every stem's magnitude, with the mixture's phase.

    The published scores are those after the authors' Wiener filter over the whole song, which is
    `--framing original --wiener 1` here; it shares the mixture among all stems asked for, so it
    is no part of `forward`. By default chunks overlap by half and are cross-faded: two estimates
    of everything, as in the original, but none with zeros in place of the song.
    """

    Config = D3NetConfig
    is_large = True
    config: D3NetConfig
    core: PerStem
    original_wiener = RankOneWiener()

    def __init__(self, config: D3NetConfig) -> None:
        super().__init__(config)
        self.n_fft = config.n_fft
        self.hop_length = config.hop_length
        self.pad_mode = config.pad_mode
        # A sixteenth is one step of the deepest level, whose convolutions see zeros beyond it.
        self.chunk = ChunkPlan(
            (config.chunk_frames - 1) * config.hop_length,
            overlap=0.5,
            edge_samples=max(config.n_fft // 2, config.chunk_frames // 16 * config.hop_length),
            multiple_of=config.hop_length,
            fixed=True,
        )
        self.core = PerStem(
            {stem: D3NetNet(config, config.find_sizes(stem)) for stem in config.stems}
        )

    def _leave_out_unneeded(self) -> None:
        self.core = self.core.only(self.stems)

    def core_inputs(self, mixture: Tensor) -> tuple[Tensor, ...]:
        """Take the magnitude. Shape: (B, C, F, N) -> (B, C, F, N)."""
        return (magnitudes(mixture),)

    def estimate(self, outputs: tuple[Tensor, ...], mixture: Tensor) -> Tensor:
        """Give the magnitudes the mixture's phase; silence has none, and stays silent.

        Shape: (B, S, C, F, N), (B, C, F, N) -> (B, S, C, F, N).
        """
        (given,) = outputs
        parts = torch.view_as_real(torch.sgn(mixture)).unsqueeze(1) * given.unsqueeze(-1)
        return torch.view_as_complex(parts)

    def estimate_magnitudes(self, outputs: tuple[Tensor, ...], mixture: Tensor) -> Tensor:
        """Return what the networks gave, where the mixture is silent too. Shape: see `estimate`."""
        return outputs[0]
