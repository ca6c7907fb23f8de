"""The U-Net around intermediate blocks: one width at all levels, half the bins at each.

Choi et al., ISMIR 2020, section 2.2. Letters in shapes: B batch, N frames, F bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stemsplit.models.blocks.framewise import by_frames
from stemsplit.models.blocks.fusion import Fusion, Part, Pending
from stemsplit.models.blocks.intermediate import build_activation
from stemsplit.models.blocks.norm_places import NormPlace, behind

BuildBlock = Callable[[int, int], nn.Module]
"""(channels that come in, bins of the level) -> the block of that level."""


@dataclass(frozen=True)
class FrameSizes:
    """What decides the shape of the U-Net but for its blocks.

    Attributes:
        planes: Channels that go in and come out.
        width: Channels inside.
        levels: How often the bins are halved.
        time_levels: At which of these, from 0, the frames are halved too.
        bins: F at the border, n_fft / 2 + 1.
        first_activation: Behind the first convolution.
        last_activation: Behind the last one.
        is_framewise: Whether no frame knows of another, in any block.
    """

    planes: int
    width: int
    levels: int
    time_levels: Sequence[int]
    bins: int
    first_activation: str
    last_activation: str
    is_framewise: bool = False


class Resample(nn.Module):
    """A convolution whose kernel is its stride, down or up, and a norm.

    Shape: (B, C, N, F) -> (B, C, N / s, F / 2) down; up the other way.
    """

    def __init__(self, kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], width: int, s: int):
        super().__init__()
        self._goes_up = issubclass(kind, nn.ConvTranspose2d)
        self.conv = kind(width, width, (s, 2), stride=(s, 2))
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, N, F) -> (B, C, N / s, F / 2) down; up the other way."""
        if self._goes_up:
            return by_frames(self._resample, x, training=self.training, grows=4)
        return self._resample(x)

    def _resample(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.conv(x))
        return result

    def fusion(self) -> Fusion:
        """Say what is computed. See `stemsplit.models.blocks.fusion`."""
        return Fusion(self.conv, behind=(self.norm,))

    def norm_places(self) -> Iterator[NormPlace]:
        """Say what the norm reads. See `stemsplit.models.blocks.norm_places`."""
        yield behind(self.conv, self.norm)


class UNetFrame(nn.Module):
    """Blocks down, one in the middle, blocks up, each of which reads its mirrored level too.

    Shape: (B, planes, N, F) -> (B', planes, N, F); N must divide by 2 for every time level. B' is
    B, unless blocks make several of one.
    """

    def __init__(self, sizes: FrameSizes, build_block: BuildBlock) -> None:
        super().__init__()
        width, levels = sizes.width, sizes.levels
        self._begin_grows = -(-width // sizes.planes)
        self._is_framewise = sizes.is_framewise
        self.first = nn.Conv2d(sizes.planes, width, (1, 2))
        self.first_norm = nn.BatchNorm2d(width)
        self.first_activation = build_activation(sizes.first_activation)
        self.last = nn.Conv2d(width, sizes.planes, (1, 2), padding=(0, 1))
        self.last_activation = build_activation(sizes.last_activation)
        strides = [2 if level in sizes.time_levels else 1 for level in range(levels)]
        bins = [(sizes.bins - 1) >> level for level in range(levels + 1)]
        self.encoders = nn.ModuleList(build_block(width, bins[level]) for level in range(levels))
        self.down = nn.ModuleList(Resample(nn.Conv2d, width, stride) for stride in strides)
        self.middle = build_block(width, bins[levels])
        self.up = nn.ModuleList(Resample(nn.ConvTranspose2d, width, s) for s in reversed(strides))
        self.decoders = nn.ModuleList(
            build_block(2 * width, bins[level]) for level in reversed(range(levels))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Go down and up, one item of a batch after the other where nothing links them.

        Shape: (B, planes, N, F) -> (B', planes, N, F).
        """
        if self.training:
            return self.run(x)
        # A whole song's pieces are a batch: side by side they would take memory that grows with it.
        if x.shape[0] > 1:
            return torch.cat([self(one) for one in x.split(1)])
        if self._is_framewise:
            # All the way for some frames, then for the next: so few that their images stay in a
            # cache, and not so few that layers take longer to begin than to compute.
            return by_frames(self.run, x, training=False, grows=2 * self._begin_grows)
        return self.run(x)

    def run(self, x: Tensor, conditions: Sequence[object] | None = None) -> Tensor:
        """Go down and up, all items at once.

        Args:
            x: Shape (B, planes, N, F).
            conditions: What each block is given beside its input: down, middle, up.

        Returns:
            Shape (B', planes, N, F).
        """
        ended = [x]
        skips: list[Tensor] = []
        for place in range(self.blocks):
            told = {} if conditions is None else {"condition": conditions[place]}
            self.step(place, ended, skips, **told)
        return self.finish(ended.pop())

    @property
    def blocks(self) -> int:
        """How many there are: down, middle, up."""
        return len(self.encoders) + 1 + len(self.decoders)

    def block(self, place: int) -> nn.Module:
        """Return one of them."""
        found: nn.Module = (*self.encoders, self.middle, *self.decoders)[place]
        return found

    def begin(self, x: Tensor) -> Tensor:
        """Make channels of planes. Shape: (B, planes, N, F) -> (B, C, N, F)."""
        return by_frames(self._begin, x, training=self.training, grows=self._begin_grows)

    def chains(self) -> Iterator[Sequence[str]]:
        """Say which children follow one another. See `stemsplit.models.blocks.fusion`."""
        yield "first", "first_norm", "first_activation"

    def _begin(self, x: Tensor) -> Tensor:
        result: Tensor = self.first_activation(self.first_norm(self.first(x)))
        return result

    def step(
        self, place: int, ended: list[Tensor], skips: list[Tensor], **condition: object
    ) -> None:
        """Go to a block's level and through the block.

        Args:
            place: Which block: down, middle, up.
            ended: Where the last one ended, the planes before the first; changed here to where
                this one does. A list: nobody else holds on to what is read for the last time.
            skips: What the blocks going down gave and none coming up has read; changed here.
            **condition: What the block is given beside its input.
        """
        levels = len(self.encoders)
        songs = ended[0].shape[0]
        way = (self._way_in(), *self.down, *self.up)[place]
        block = self.block(place)
        parts: list[Part] = [Pending(way, ended.pop())]
        if place > levels:
            parts.append(_repeat(skips.pop(), songs))
        ended.append(block(parts, **condition))
        if place < levels:
            skips.append(ended[-1])

    def _way_in(self) -> Callable[[Tensor], Tensor]:
        """Return what begins: the first layer, where it does all."""
        others = (self.first_norm, self.first_activation)
        is_all = all(isinstance(one, nn.Identity) for one in others)
        return self.first if is_all else self.begin

    def finish(self, x: Tensor) -> Tensor:
        """Make planes of channels. Shape: (B, C, N, F) -> (B, planes, N, F)."""
        return by_frames(self._finish, x, training=self.training)

    def _finish(self, x: Tensor) -> Tensor:
        result: Tensor = self.last_activation(self.last(x))
        return result

    def norm_places(self) -> Iterator[NormPlace]:
        """Say what the first norm reads. See `stemsplit.models.blocks.norm_places`."""
        yield behind(self.first, self.first_norm)


def _repeat(skip: Tensor, count: int) -> Tensor:
    """Repeat a mirrored level for each of the items that were made of one."""
    if skip.shape[0] == count:
        return skip
    return skip.repeat_interleave(count // skip.shape[0], dim=0)
