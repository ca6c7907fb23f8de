"""D3Net's blocks: convolutions whose dilation grows with the depth of the features they read.

Takahashi, Mitsufuji: Densely connected multidilated convolutional networks for dense prediction
tasks. CVPR 2021. The skip connections of a dense block are sums, as in the authors' code: a layer
makes its contributions to all later layers in one convolution.

Letters: B batch, H frames, W bins; g growth, the channels of a layer's group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from stemsplit.dsp.memory import cat
from stemsplit.models.blocks.fusion import Fusion
from stemsplit.models.blocks.norm_places import NormPlace, Part, behind, behind_sum


@dataclass(frozen=True)
class BranchSizes:
    """What decides the shape of a `MultiScale` and of the convolution before it.

    Attributes:
        first: Channels of that convolution.
        growth: g of every block: going down, at the bottom, coming up. An odd number of them.
        layers: Of each part of every block, in the same order.
        blocks: Parts of every block.
    """

    first: int
    growth: tuple[int, ...]
    layers: tuple[int, ...]
    blocks: int

    def __post_init__(self) -> None:
        # A registry's lists are as good as tuples.
        object.__setattr__(self, "growth", tuple(self.growth))
        object.__setattr__(self, "layers", tuple(self.layers))
        if len(self.growth) != len(self.layers) or len(self.growth) % 2 == 0:
            raise ValueError(
                f"{len(self.growth)} growths for {len(self.layers)} numbers of layers: "
                "as many of both are needed, and an odd number"
            )

    @property
    def depth(self) -> int:
        """How often both axes are halved."""
        return len(self.growth) // 2


class Unit(nn.Module):
    """Norm, ReLU and a 3x3 convolution that keeps the size.

    Shape: (B, C_in, H, W) -> (B, C_out, H, W).
    """

    def __init__(self, wide_in: int, wide_out: int, dilation: int = 1) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(wide_in)
        self.conv = nn.Conv2d(wide_in, wide_out, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """Add to `plus`, if that is there. Shape: (B, C_in, H, W), (B, C_out, H, W) -> the same."""
        # In use the norm may be folded away. What x is a slice of is then not written to; a slice
        # would be copied for the convolution anyway.
        is_new = not isinstance(self.norm, nn.Identity)
        result: Tensor = self.conv(functional.relu(self.norm(x), inplace=is_new))
        return result if plus is None else result.add_(plus)

    def fusion(self) -> Fusion:
        """Say what is computed. See `stemsplit.models.blocks.fusion`."""
        return Fusion(self.conv, before=(self.norm, nn.ReLU()), takes_plus=True)


class Dense(nn.Module):
    """D2, the multidilated dense block (section 3.2): every layer adds to all that come after it.

    Shape: (B, C, H, W) -> (B, g, H, W).
    """

    def __init__(self, wide_in: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Unit(growth if place else wide_in, growth * (layers - place), dilation=2**place)
            for place in range(layers)
        )

    @property
    def first_norm(self) -> nn.Module:
        """What reads the input, and nothing else does."""
        return _units(self)[0].norm

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """Add to `plus`, if that is there. Shape: (B, C, H, W), (B, g, H, W) -> (B, g, H, W)."""
        result = _add_up(x, self.layers)
        return result if plus is None else result.add_(plus)

    def norm_places(self) -> Iterator[NormPlace]:
        """Say what norms read: sums of groups. See `stemsplit.models.blocks.norm_places`."""
        units = _units(self)
        for place, unit in enumerate(units[1:]):
            yield behind_sum(unit.norm, _find_group(units, place))

    def parts(self, channel: int = 0, count: int | None = None) -> list[Part]:
        """Return whose outputs are summed in some of the channels that come out; all by default."""
        units = _units(self)
        last = _find_group(units, len(units) - 1)
        return [(layer, row + channel, count or wide) for layer, row, wide in last]


class Nested(nn.Module):
    """D3, dense blocks joined as the layers of one are (section 3.3).

    Shape: (B, C, H, W) -> (B, g, H, W).
    """

    def __init__(self, wide_in: int, growth: int, layers: int, blocks: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Dense(growth if place else wide_in, growth * (blocks - place), layers)
            for place in range(blocks)
        )
        self.growth = growth

    @property
    def first_norm(self) -> nn.Module:
        """What reads the input, and nothing else does."""
        return _dense(self)[0].first_norm

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, g, H, W)."""
        return _add_up(x, self.layers)

    def norm_places(self) -> Iterator[NormPlace]:
        """Say what norms read: sums of groups. See `stemsplit.models.blocks.norm_places`."""
        for place, block in enumerate(_dense(self)[1:]):
            yield behind_sum(block.first_norm, self._find_group(place))

    def parts(self) -> list[Part]:
        """Return whose outputs are summed in the channels that come out."""
        return self._find_group(len(self.layers) - 1)

    def _find_group(self, group: int) -> list[Part]:
        found = []
        for place, block in enumerate(_dense(self)[: group + 1]):
            found += block.parts((group - place) * self.growth, self.growth)
        return found


def _add_up(x: Tensor, layers: nn.ModuleList) -> Tensor:
    """Run layers, each of which adds to all groups behind its own; return the last group.

    Args:
        x: What the first layer reads.
        layers: The first gives as many groups of g channels as there are layers, the second reads
            the first group and gives all but that one, and so on.
    """
    groups: Tensor = layers[0](x)
    growth = groups.shape[1] // len(layers)
    for layer in layers[1:]:
        groups = layer(groups[:, :growth], groups[:, growth:])
    return groups


def _units(dense: Dense) -> list[Unit]:
    return list(dense.layers)  # type: ignore[arg-type]  # a ModuleList forgets what it was given


def _dense(nested: Nested) -> list[Dense]:
    return list(nested.layers)  # type: ignore[arg-type]  # a ModuleList forgets what it was given


def _find_group(units: Sequence[Unit], group: int) -> list[Part]:
    """Return whose outputs are summed in one of a dense block's groups.

    Group i stands first in what layer i gives, second in what the one before gives, and so on.
    """
    wide = units[-1].conv.out_channels
    return [
        (unit.conv, (group - place) * wide, wide) for place, unit in enumerate(units[: group + 1])
    ]


class Rise(nn.Module):
    """Norm and a transposed convolution that doubles both axes.

    Shape: (B, C, H, W) -> (B, C, 2H, 2W).
    """

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(wide)
        self.conv = nn.ConvTranspose2d(wide, wide, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, C, 2H, 2W)."""
        result: Tensor = self.conv(self.norm(x))
        return result


class MultiScale(nn.Module):
    """MD3, a U-Net of nested blocks (section 4.2), and the convolution that leads into it.

    Shape: (B, C, H, W) -> (B, growth[-1], H, W); H and W divide by 2 ** depth.
    """

    def __init__(self, channels: int, sizes: BranchSizes) -> None:
        super().__init__()
        depth, blocks = sizes.depth, sizes.blocks
        growth, layers = sizes.growth, sizes.layers
        self.first = nn.Conv2d(channels, sizes.first, 3, padding=1)
        self.down = nn.ModuleList(
            Nested(
                growth[place - 1] if place else sizes.first, growth[place], layers[place], blocks
            )
            for place in range(depth)
        )
        wide = growth[depth - 1] if depth else sizes.first
        self.bottom = Nested(wide, growth[depth], layers[depth], blocks)
        self.rise = nn.ModuleList(Rise(wide) for wide in growth[depth:-1])
        # Numbered on from those that go down; each reads, too, what its mirror image gave.
        self.up = nn.ModuleDict(
            {
                str(place): Nested(
                    growth[place - 1] + growth[2 * depth - place],
                    growth[place],
                    layers[place],
                    blocks,
                )
                for place in range(depth + 1, 2 * depth + 1)
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, growth[-1], H, W)."""
        skips = []
        x = self.first(x)
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = functional.avg_pool2d(x, 2)
        x = self.bottom(x)
        for rise, block in zip(self.rise, self.up.values(), strict=True):
            x = block(cat((rise(x), skips.pop()), 1))
        return x

    def norm_places(self) -> Iterator[NormPlace]:
        """Say what norms read that stand alone behind a block or the first convolution.

        What goes down is read twice, by the next level and by its mirror image: their norms stay.
        See `stemsplit.models.blocks.norm_places`.
        """
        blocks = self._blocks()
        rises: list[Rise] = list(self.rise)  # type: ignore[arg-type]  # a ModuleList forgets what it was given
        yield behind(self.first, blocks[0].first_norm)
        for below, rise in zip(blocks[len(self.down) : -1], rises, strict=True):
            yield behind_sum(rise.norm, below.parts())

    def parts(self) -> list[Part]:
        """Return whose outputs are summed in the channels that come out."""
        return self._blocks()[-1].parts()

    def _blocks(self) -> list[Nested]:
        return [*self.down, self.bottom, *self.up.values()]
