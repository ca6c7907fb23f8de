"""Intermediate blocks: what a level of a spectrogram U-Net does at its own resolution.

Choi, Kim, Chung, Lee, Jung: Investigating U-Nets with various intermediate blocks for
spectrogram-based singing voice separation. ISMIR 2020. Section 3 names them:

TFC      time-frequency convolutions: a small DenseNet of 2-D convolutions
TDC      time-distributed convolutions: the same over frequency alone, each frame by itself
TDF      time-distributed fully-connected layers: each frame's bins mixed by one or two matrices

A block reads its input in any number of parts, as if their channels stood side by side. It gets
them in a list, which nothing else holds on to, and takes them out where it goes on without them.

Letters in shapes: B batch, C channels, N frames, F frequency bins of this level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from stemsplit.dsp.memory import cat, has_channels_last, is_recorded, new_empty, new_image
from stemsplit.models.blocks.framewise import by_frames
from stemsplit.models.blocks.fusion import Fusion, Mixing, Part, settle
from stemsplit.models.blocks.latents import Matrix, add_shares, join_latents, split_latents
from stemsplit.models.blocks.norm_places import NormPlace, behind

Work = Callable[[Tensor], Tensor]
"""Takes frames, each for itself."""

CACHED_WEIGHTS = 1 << 19
"""So large a matrix stays in a processor's cache while it is applied to frame after frame."""

# In place where the gradient can do without the input: each follows a layer's own output.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "leaky_relu": lambda: nn.LeakyReLU(inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(dim=1),
    "tanh": nn.Tanh,
}


def build_activation(name: str) -> nn.Module:
    """Return the activation of a name.

    Args:
        name: A key of `ACTIVATIONS`.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"there is no activation {name!r}, only {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]()


class ConvLayer(nn.Module):
    """A convolution that keeps the size, batch norm, activation.

    Shape: (B, C_in, N, F) -> (B, C_out, N, F).
    """

    def __init__(
        self, wide_in: int, wide_out: int, kernel: tuple[int, int], activation: str
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(wide_in, wide_out, kernel, padding=padding)
        self.norm = nn.BatchNorm2d(wide_out)
        self.activation = build_activation(activation)

    def forward(self, *parts: Tensor) -> Tensor:
        """Shape: (B, C_in, N, F), in any number of parts -> (B, C_out, N, F)."""
        # Nothing holds the parts' copy while norm and activation make copies of their own.
        result: Tensor = self.activation(self.norm(self.conv(torch.cat(parts, dim=1))))
        return result

    def fusion(self) -> Fusion:
        """Say what is computed. See `stemsplit.models.blocks.fusion`."""
        return Fusion(self.conv, behind=(self.norm, self.activation))

    def norm_places(self) -> Iterator[NormPlace]:
        """Say what the norm reads. See `stemsplit.models.blocks.norm_places`."""
        yield behind(self.conv, self.norm)


class DenseConv(nn.Module):
    """TFC, and with a kernel of one frame TDC: every layer reads all that came before it.

    Shape: (B, C_in, N, F) -> (B, C_out, N, F).
    """

    def __init__(
        self, wide_in: int, wide_out: int, layers: int, kernel: tuple[int, int], activation: str
    ) -> None:
        """Build the layers.

        Args:
            wide_in: C_in.
            wide_out: C_out, and what each layer adds.
            layers: How many.
            kernel: Frames and bins, odd.
            activation: Of every layer.
        """
        super().__init__()
        self.layers = nn.ModuleList(
            ConvLayer(wide_in + index * wide_out, wide_out, kernel, activation)
            for index in range(layers)
        )

    def forward(self, parts: Sequence[Part]) -> Tensor:
        """Return the last layer's output. Shape: parts of (B, C_in, N, F) -> (B, C_out, N, F)."""
        seen = list(map(settle, parts))
        for layer in self.layers:
            # The newest first; the last output stands alone.
            seen.insert(0, layer(*seen))
        return seen[0]

    def dense_layers(self) -> Iterable[nn.Module]:
        """Say which layers these are. See `stemsplit.models.blocks.fusion`."""
        return self.layers


class LinearLayer(nn.Module):
    """A matrix over frequency, batch norm, activation.

    Shape: (B, C, N, F_in) -> (B, C, N, F_out).
    """

    def __init__(
        self, channels: int, f_in: int, f_out: int, activation: str, *, bias: bool, affine: bool
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(f_in, f_out, bias)
        self.norm = nn.BatchNorm2d(channels, affine=affine)
        self.activation = build_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, N, F_in) -> (B, C, N, F_out)."""
        return self._run(x, (self.linear.weight, self.linear.bias))

    def _run(self, x: Tensor, matrix: Matrix) -> Tensor:
        """Do it with a matrix like its own, or a part of that."""
        result: Tensor = self.activation(self.norm(_mix(x, *matrix)))
        return result

    def matrix(self) -> Mixing:
        """Say what is computed. See `stemsplit.models.blocks.fusion`."""
        return Mixing(self.linear, self.norm, self.activation)

    def sum_latents(self, attention: Tensor, songs: int) -> Work:
        """Return what makes spectra of latent sources and sums them for each stem.

        In what the matrix gives, the latent sources run fastest: bin by bin.

        Args:
            attention: How much each stem takes of each of them. Shape (S, L).
            songs: B.

        Returns:
            Takes (B or B * S, C, N, F_in), gives (B * S, C, N, F_out / L).
        """
        matrices = split_latents(self.linear, attention.shape[1])

        def work(x: Tensor) -> Tensor:
            return add_shares(attention, self._find_spectra(x, matrices), songs)

        return work

    def _find_spectra(self, x: Tensor, matrices: Sequence[Matrix]) -> Iterator[Tensor]:
        """Yield what each matrix makes of an image.

        One by one: side by side they are the largest of a network's arrays.
        """
        if self.training:
            # The norm looks at all spectra.
            yield from self._run(x, join_latents(matrices)).chunk(len(matrices), dim=-1)
            return
        if self.linear.weight.numel() > CACHED_WEIGHTS:
            x = _to_rows(x)
        for matrix in matrices:
            yield self._run(x, matrix)


def _to_rows(x: Tensor) -> Tensor:
    """Return an image whose bins lie side by side, not its channels. Shape: (B, C, N, F)."""
    if is_recorded(x) or not has_channels_last(x):
        return x
    return new_empty(x, x.shape).copy_(x)


def _mix(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a matrix to the bins. Shape: (B, C, N, F_in), (F_out, F_in) -> (B, C, N, F_out)."""
    is_lowered = torch.is_autocast_enabled(x.device.type)
    if is_lowered or x.device.type != "cpu" or is_recorded(x, weight):
        return functional.linear(x, weight, bias)
    if not has_channels_last(x) or weight.numel() > CACHED_WEIGHTS:
        rows = _to_rows(x).reshape(-1, x.shape[-1])
        out = new_empty(x, (len(rows), len(weight)))
        torch.mm(rows, weight.T, out=out)
        if bias is not None:
            out += bias
        return out.view(*x.shape[:-1], -1)
    # Channels stay side by side: to turn the image would take as long as this.
    frames = x.permute(0, 2, 3, 1).flatten(0, 1)
    columns = new_empty(x, (len(frames), len(weight), x.shape[1]))
    torch.bmm(weight.expand(len(frames), -1, -1), frames, out=columns)
    if bias is not None:
        columns += bias[:, None]
    mixed: Tensor = columns.unflatten(0, (len(x), -1)).permute(0, 3, 1, 2)
    return mixed


def add(x: Tensor, added: Tensor, songs: int = 1) -> Tensor:
    """Return x plus what was made of it, in the order of axes that x has in memory.

    Args:
        x: Shape (B, C, N, F), all of a song's one after the other.
        added: May be changed. Shape (B', C, N, F), as many times B for every song.
        songs: How many.

    Returns:
        Shape (B', C, N, F).
    """
    one, other = x.unflatten(0, (songs, -1)), added.unflatten(0, (songs, -1))
    if is_recorded(one, other) or added.dtype != x.dtype:
        other = one + other
    elif has_channels_last(added) == has_channels_last(x):
        other += one
    else:
        other = new_image(x, added.shape).unflatten(0, (songs, -1))
        torch.add(one, added.unflatten(0, (songs, -1)), out=other)
    total: Tensor = other.flatten(0, 1)
    return total


class TDF(nn.Module):
    """One matrix over frequency, or two with a bottleneck in between; frames and channels share it.

    Shape: (B, C, N, F_in) -> (B, C, N, F_out).
    """

    def __init__(
        self,
        channels: int,
        f_in: int,
        f_out: int,
        bottleneck: int | None,
        activation: str,
        *,
        bias: bool,
        affine: bool,
    ) -> None:
        """Build the layers.

        Args:
            channels: C.
            f_in: F_in.
            f_out: F_out.
            bottleneck: Units between the two matrices; None for one matrix.
            activation: Behind every matrix.
            bias: Whether the matrices have one.
            affine: Whether the norms have a scale and a shift.
        """
        super().__init__()
        sizes = [f_in, f_out] if bottleneck is None else [f_in, bottleneck, f_out]
        self.layers = nn.Sequential(
            *(
                LinearLayer(channels, before, after, activation, bias=bias, affine=affine)
                for before, after in pairwise(sizes)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, N, F_in) -> (B, C, N, F_out)."""
        result: Tensor = self.layers(x)
        return result

    def sum_latents(self, attention: Tensor, songs: int) -> Work:
        """Return what goes to the spectra of latent sources, and sums them for each stem.

        Args:
            attention: How much each stem takes of each of them. Shape (S, L); L divides F_out.
            songs: B.

        Returns:
            Takes (B or B * S, C, N, F_in), gives (B * S, C, N, F_out / L).
        """
        *first, last = self.layers
        # Or what replaces one.
        sum_latents = cast("LinearLayer", last).sum_latents(attention, songs)

        def work(x: Tensor) -> Tensor:
            for layer in first:
                x = layer(x)
            return sum_latents(x)

        return work


class NarrowedTDF(nn.Module):
    """A TDF on all channels, then as few of them as the level has.

    Shape: (B, C_in, N, F) -> (B, C_out, N, F).
    """

    def __init__(self, tdf: TDF, wide_in: int, wide_out: int) -> None:
        super().__init__()
        self.tdf = tdf
        self.narrow = nn.Conv2d(wide_in, wide_out, 1) if wide_in != wide_out else nn.Identity()

    def forward(self, parts: list[Part]) -> Tensor:
        """Shape: parts of (B, C_in, N, F), taken out of the list -> (B, C_out, N, F)."""
        images = [settle(parts.pop(0)) for _ in range(len(parts))]
        x = images[0] if len(images) == 1 else cat(images, 1)
        del images
        result: Tensor = self.narrow(self.tdf(x))
        return result


class DenseTDF(nn.Module):
    """TFC-TDF: y = TFC(x), and y + TDF(y) comes out.

    Shape: (B, C_in, N, F) -> (B, C_out, N, F).
    """

    def __init__(self, dense: DenseConv, tdf: TDF) -> None:
        super().__init__()
        self.dense = dense
        self.tdf = tdf

    def forward(self, parts: list[Part]) -> Tensor:
        """Shape: parts of (B, C_in, N, F), taken out of the list -> (B, C_out, N, F)."""
        y = self.dense(parts)
        parts.clear()
        return by_frames(self._add, y, training=self.training, may_replace=True)

    def _add(self, y: Tensor) -> Tensor:
        return add(y, self.tdf(y))


class DenseRNN(nn.Module):
    """TDC-RNN: y = norm(TDC(x)), a GRU over each channel's frames, a TDF back to F, plus y.

    Shape: (B, C_in, N, F) -> (B, C_out, N, F).
    """

    def __init__(self, dense: DenseConv, rnn: nn.GRU, tdf: TDF, channels: int) -> None:
        super().__init__()
        self.dense = dense
        self.norm = nn.BatchNorm2d(channels)
        self.rnn = rnn
        self.tdf = tdf

    def forward(self, parts: list[Part]) -> Tensor:
        """Shape: parts of (B, C_in, N, F), taken out of the list -> (B, C_out, N, F)."""
        y: Tensor = self.norm(self.dense(parts))
        parts.clear()
        remembered, _ = self.rnn(y.flatten(0, 1))
        result: Tensor = y + self.tdf(remembered.unflatten(0, y.shape[:2]))
        return result
