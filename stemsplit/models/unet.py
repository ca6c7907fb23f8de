"""U-Nets with intermediate blocks: one network per stem, on spectrograms of some seconds.

Choi, Kim, Chung, Lee, Jung: Investigating U-Nets with various intermediate blocks for
spectrogram-based singing voice separation. ISMIR 2020. The study compares blocks (TFC, TDF, TDC,
TDC-RNN, TFC-TDF) and ways to read and to give a spectrogram; here each of them is a value of one
configuration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from stemsplit.dsp.stft import Resynthesis, stft
from stemsplit.models.base import (
    ChunkPlan,
    Encoded,
    ModelConfig,
    PerStem,
    Refine,
    SpectralModel,
    Spectrum,
)
from stemsplit.models.blocks.frame import FrameSizes, UNetFrame
from stemsplit.models.blocks.intermediate import (
    TDF,
    DenseConv,
    DenseRNN,
    DenseTDF,
    NarrowedTDF,
)
from stemsplit.models.blocks.pieces import Pieces
from stemsplit.models.blocks.planes import Estimate, Kind, count_planes, from_planes, to_planes

Block = Literal["tfc", "tdf", "tdc", "tdc-rnn", "tfc-tdf"]
FRAMEWISE: tuple[Block, ...] = ("tdf", "tdc")
"""Blocks that know nothing of neighbouring frames."""

RAMP_FRAMES = 8
"""Of 128. Networks trained small score the same with 4, 8, 12 or 16, and a steady sound wobbles as
little (docs/benchmarks.md, Seams)."""


@dataclass(frozen=True)
class SpectrogramUNetConfig(ModelConfig):
    """What the U-Nets of the study and their conditioned successors share.

    Attributes:
        n_fft: Transform length, in samples.
        hop_length: Distance between frames, in samples.
        segment_frames: How many frames the network sees at once; must divide by 2 for every level
            that halves them.
        spectrogram: "complex": real and imaginary parts as channels; "magnitude": with the
            mixture's phase.
        estimate: "mapping": the network gives the spectrogram; "masking": what multiplies it.
        blocks: Intermediate blocks, odd: down, one in the middle, up.
        width: Channels inside.
        layers: Convolutions in a dense block.
        kernel_frames: Their size in frames, odd.
        kernel_bins: Their size in bins, odd.
        activation: Inside the blocks.
        first_activation: Behind the first convolution.
        last_activation: Behind the last: "identity" for a mapping, "relu", "sigmoid" or "tanh" for
            a mask.
        time_levels: At which levels, from 0, frames are halved as bins are; "all", or numbers.
        bottleneck_factor: A TDF goes through F over this many units; 0 for one matrix.
        bottleneck_least: And through no fewer than these.
        bias: Whether a TDF's matrices have one.
        trim_samples: In the original framing, at least so much at either end of a piece is not
            heard.
    """

    n_fft: int = 4096
    hop_length: int = 1024
    segment_frames: int = 128
    spectrogram: Kind = "complex"
    estimate: Estimate = "mapping"
    blocks: int = 9
    width: int = 24
    layers: int = 5
    kernel_frames: int = 3
    kernel_bins: int = 3
    activation: str = "relu"
    first_activation: str = "relu"
    last_activation: str = "identity"
    time_levels: Literal["all"] | tuple[int, ...] = "all"
    bottleneck_factor: int = 16
    bottleneck_least: int = 16
    bias: bool = True
    trim_samples: int = 5000

    @property
    def levels(self) -> int:
        """How often the bins are halved."""
        return self.blocks // 2

    @property
    def frame_sizes(self) -> FrameSizes:
        """What the U-Net around the blocks needs to know."""
        halved = range(self.levels) if self.time_levels == "all" else self.time_levels
        return FrameSizes(
            planes=count_planes(self.spectrogram, self.channels),
            width=self.width,
            levels=self.levels,
            time_levels=tuple(halved),
            bins=self.n_fft // 2 + 1,
            first_activation=self.first_activation,
            last_activation=self.last_activation,
        )

    def squeeze_bins(self, bins: int) -> int | None:
        """Return a TDF's units in between, for one of so many bins; None for one matrix."""
        if not self.bottleneck_factor:
            return None
        return max(bins // self.bottleneck_factor, self.bottleneck_least)

    @classmethod
    def tiny(cls, stems: tuple[str, ...]) -> Self:
        """Return a network of a few thousand parameters, which masks: silence stays silence."""
        return cls(
            stems,
            n_fft=128,
            hop_length=64,
            segment_frames=64,
            estimate="masking",
            last_activation="tanh",
            blocks=3,
            width=4,
            layers=2,
            trim_samples=100,
        )


class SpectrogramUNet(SpectralModel):
    """A network that takes a fixed number of frames: chunks as they are, a whole song in pieces."""

    Config = SpectrogramUNetConfig
    config: SpectrogramUNetConfig
    pieces: Pieces
    frame_axis = -2
    is_large = True

    def __init__(self, config: SpectrogramUNetConfig, edge_frames: int, ramp_frames: int) -> None:
        """Plan the chunks.

        Args:
            config: The network's.
            edge_frames: What of a chunk's ends is not heard.
            ramp_frames: Over how many frames two chunks are cross-faded.
        """
        super().__init__(config)
        self.n_fft = config.n_fft
        self.hop_length = config.hop_length
        # As many frames as the network was trained on.
        steps = config.segment_frames - 1
        self.chunk = ChunkPlan(
            steps * config.hop_length,
            overlap=(2 * edge_frames + ramp_frames) / steps,
            edge_samples=edge_frames * config.hop_length,
            multiple_of=config.hop_length,
            fixed=True,
        )
        trim = math.ceil(config.trim_samples / config.hop_length) * config.hop_length
        self.pieces = Pieces(self.chunk.samples, trim, isolated=True)
        # Frames at either end of a piece that the original's transform does not have.
        self.outer_frames = 0

    def encode(self, mixture: Tensor) -> Encoded:
        """Transform one chunk as it is, anything else in the authors' pieces."""
        samples = mixture.shape[-1]
        if self._is_chunk(samples):
            spectrum = stft(mixture, self.n_fft, self.hop_length, pad_mode=self.pad_mode)
            short = self.config.segment_frames - spectrum.shape[-1]
            spectrum = functional.pad(spectrum, (0, short)) if short > 0 else spectrum
        else:
            pieces = self.pieces.cut(mixture)
            spectrum = stft(pieces, self.n_fft, self.hop_length, pad_mode=self.pad_mode)
            spectrum = spectrum[..., self.outer_frames :][..., : self.config.segment_frames]
        return Encoded(self.core_inputs(spectrum), Spectrum(spectrum, samples))

    def _is_chunk(self, samples: int) -> bool:
        # The last chunk of a song may lack less than a hop.
        return 0 <= self.chunk.samples - samples < self.hop_length

    def lighten(self, carry: Spectrum) -> Spectrum:
        """Leave the mixture's numbers out where the network gives the stems' own."""
        is_read = self.config.estimate == "masking" or self.config.spectrogram == "magnitude"
        mixture = carry.mixture
        return carry if is_read else carry._replace(mixture=mixture.new_empty(1).expand_as(mixture))

    def decode(
        self, outputs: tuple[Tensor, ...], carry: Spectrum, refine: Refine | None = None
    ) -> Tensor:
        """Estimate, transform back and join the pieces. See `StemModel.decode`."""
        is_chunk = self._is_chunk(carry.samples)
        outer = 0 if is_chunk else self.outer_frames
        resynthesis = Resynthesis(self.hop_length, carry.mixture.shape[-1], outer)
        for estimates in self.estimate_in_turn(outputs, carry.mixture, refine):
            resynthesis.add(estimates)
        if is_chunk:
            return resynthesis.finish(carry.samples)
        return self.pieces.join(resynthesis.finish(self.pieces.window), carry.samples)

    def core_inputs(self, mixture: Tensor) -> tuple[Tensor, ...]:
        """Lay the spectrogram out in planes. Shape: (B, C, F, N) -> (B, P, N, F)."""
        return (to_planes(mixture, self.config.spectrogram),)

    def estimate(self, outputs: tuple[Tensor, ...], mixture: Tensor) -> Tensor:
        """Return the stems' spectrograms. (B, S, P, N, F), (B, C, F, N) -> (B, S, C, F, N)."""
        (planes,) = outputs
        return from_planes(planes, mixture, self.config.spectrogram, self.config.estimate)

    def estimate_magnitudes(self, outputs: tuple[Tensor, ...], mixture: Tensor) -> Tensor:
        """Return the magnitudes as the network gave them, below zero too. See `estimate`."""
        if self.config.spectrogram == "complex":
            return super().estimate_magnitudes(outputs, mixture)
        given = outputs[0].transpose(3, 4)
        return given if self.config.estimate == "mapping" else given * mixture.abs().unsqueeze(1)


@dataclass(frozen=True)
class IntermediateBlockUNetConfig(SpectrogramUNetConfig):
    """What differs between the study's networks; the defaults are its best one's.

    Attributes:
        block: What each level does; "tdf" and "tdc" never halve frames.
        rnn_factor: TDC-RNN: the GRU's units each way are F over this.
        rnn_least: And no fewer than these.
        rnn_layers: Of the GRU.
        rnn_bias: Whether the GRU has one.
        framing: In the original framing, what surrounds the pieces of a song: "isolated", zeros, as
            in the code of 2020-10; "neighbours", their neighbours, as in the paper's own code.
    """

    block: Block = "tfc-tdf"
    rnn_factor: int = 16
    rnn_least: int = 16
    rnn_layers: int = 1
    rnn_bias: bool = False
    framing: Literal["isolated", "neighbours"] = "isolated"

    @property
    def frame_sizes(self) -> FrameSizes:
        """What the U-Net around the blocks needs to know."""
        sizes = super().frame_sizes
        if self.block in FRAMEWISE:
            return replace(sizes, time_levels=(), is_framewise=True)
        return sizes


def build_block(config: IntermediateBlockUNetConfig, wide_in: int, bins: int) -> nn.Module:
    """Return the block of one level.

    Args:
        config: The network's.
        wide_in: Channels that come in.
        bins: F at this level.

    Raises:
        ValueError: There is no such block.
    """
    width, activation = config.width, config.activation

    def build_dense(kernel_frames: int) -> DenseConv:
        kernel = (kernel_frames, config.kernel_bins)
        return DenseConv(wide_in, width, config.layers, kernel, activation)

    def build_tdf(channels: int, bins_in: int, *, affine: bool) -> TDF:
        units = config.squeeze_bins(bins)
        return TDF(channels, bins_in, bins, units, activation, bias=config.bias, affine=affine)

    if config.block == "tfc":
        return build_dense(config.kernel_frames)
    if config.block == "tdc":
        return build_dense(1)
    # One switch for both: without bias, the norms have neither scale nor shift.
    if config.block == "tdf":
        return NarrowedTDF(build_tdf(wide_in, bins, affine=config.bias), wide_in, width)
    if config.block == "tfc-tdf":
        tdf = build_tdf(width, bins, affine=config.bias)
        return DenseTDF(build_dense(config.kernel_frames), tdf)
    if config.block == "tdc-rnn":
        units = max(bins // config.rnn_factor, config.rnn_least)
        rnn = nn.GRU(
            bins,
            units,
            config.rnn_layers,
            bias=config.rnn_bias,
            batch_first=True,
            bidirectional=True,
        )
        return DenseRNN(build_dense(1), rnn, build_tdf(width, 2 * units, affine=True), width)
    raise ValueError(f"there is no block {config.block!r}")


class IntermediateBlockUNet(SpectrogramUNet):
    """A U-Net with intermediate blocks for every stem."""

    Config = IntermediateBlockUNetConfig
    config: IntermediateBlockUNetConfig
    core: PerStem

    def __init__(self, config: IntermediateBlockUNetConfig) -> None:
        hop = config.hop_length
        if config.block in FRAMEWISE:
            # A frame is all that such a network knows: only those across the border are wrong, and
            # they reach n_fft into the chunk.
            super().__init__(config, math.ceil(config.n_fft / hop), 2)
        else:
            edge = math.ceil(max(config.trim_samples, config.n_fft) / hop)
            super().__init__(config, edge, min(RAMP_FRAMES, config.segment_frames // 8))
        if config.framing == "neighbours":
            self.outer_frames = config.n_fft // 2 // hop
            window = self.chunk.samples + config.n_fft
            self.pieces = Pieces(window, config.trim_samples, isolated=False, extra=True)
        # A GRU goes from frame to frame: there is little that threads can share.
        self.is_large = config.block != "tdc-rnn"
        self.core = PerStem(
            {
                stem: UNetFrame(
                    config.frame_sizes, lambda wide, bins: build_block(config, wide, bins)
                )
                for stem in config.stems
            }
        )

    def _leave_out_unneeded(self) -> None:
        self.core = self.core.only(self.stems)
