"""Telling one network which stem is wanted: modulations of its channels, and attention to latents.

FiLM: Perez, Strub, de Vries, Dumoulin, Courville: FiLM: visual reasoning with a general
conditioning layer. AAAI 2018. GPoCM, LaSAFT: Choi, Kim, Chung, Jung: LaSAFT: latent source
attentive frequency transformation for conditioned source separation. ICASSP 2021. LightSAFT: Jeong,
Choi, Kim, Chung, Jung: LightSAFT: lightweight latent source aware frequency transform for source
separation. 2021.

Letters in shapes: B songs, S stems, C channels, N frames, F bins, L latent sources, E embedding.
Tensors that hold every song for every stem have S fastest, B * S; before the first condition all
stems share one, B.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stemsplit.dsp.memory import is_recorded, new_empty
from stemsplit.models.blocks.framewise import by_frames
from stemsplit.models.blocks.fusion import Part
from stemsplit.models.blocks.intermediate import TDF, DenseConv, LinearLayer, Work, add


class Condition(NamedTuple):
    """What a block is told.

    Attributes:
        songs: B.
        query: The embedding of each stem. Shape (S, E).
        gamma: What multiplies: (S, C) for FiLM, (S, C, C) for GPoCM; None for nothing.
        beta: What is added. Shape (S, C).
    """

    songs: int
    query: Tensor
    gamma: Tensor | None
    beta: Tensor | None

    def of(self, stems: slice) -> Condition:
        """Return what is told of some of the stems."""
        gamma = None if self.gamma is None else self.gamma[stems]
        beta = None if self.beta is None else self.beta[stems]
        return Condition(self.songs, self.query[stems], gamma, beta)


def modulate(x: Tensor, condition: Condition) -> Tensor:
    """Let the stems change the channels. Shape: (B or B * S, C, N, F) -> (B * S, C, N, F)."""
    gamma, beta = condition.gamma, condition.beta
    if gamma is None or beta is None:
        return x
    x = x.unflatten(0, (condition.songs, -1))
    shift = beta[:, :, None, None]
    if gamma.dim() == 2:
        return (gamma[:, :, None, None] * x + shift).flatten(0, 1)
    # y[o] = sum_i x[i] gamma[i, o] + beta[o]: a point-wise convolution, whose sigmoid is a gate.
    points = _mix_channels(x.flatten(3).transpose(2, 3), gamma)
    points = points.transpose(2, 3).unflatten(3, x.shape[3:])
    if is_recorded(points) or points.dtype != x.dtype:
        points = (points + shift).sigmoid() * x
    else:
        points.add_(shift).sigmoid_().mul_(x)
    gated: Tensor = points.flatten(0, 1)
    return gated


def _mix_channels(pixels: Tensor, gamma: Tensor) -> Tensor:
    """Return `pixels @ gamma`. Shape: (B, 1 or S, N * F, C), (S, C, C) -> (B, S, N * F, C)."""
    is_plain = pixels.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if not is_plain or is_recorded(pixels, gamma):
        return pixels @ gamma
    shape = (len(pixels), len(gamma), *pixels.shape[2:])
    return torch.matmul(pixels, gamma, out=new_empty(pixels, shape))


class Attention(nn.Module):
    """How much each stem takes of each latent source.

    Shape: (S, E) -> (S, L), each row's sum is 1.
    """

    def __init__(self, embedding: int, width: int, latents: int) -> None:
        super().__init__()
        self.query = nn.Linear(embedding, width)
        # On torch's device of no memory, `randn` would first import sympy: 40 MiB.
        self.keys = nn.Parameter(nn.init.normal_(torch.empty(width, latents)))

    def forward(self, query: Tensor) -> Tensor:
        """Shape: (S, E) -> (S, L)."""
        scores: Tensor = self.query(query) @ self.keys / math.sqrt(self.keys.shape[0])
        return scores.softmax(dim=-1)


class LaSAFT(nn.Module):
    """A TDF to as many spectra as there are latent sources, which a stem's attention sums."""

    def __init__(self, tdf: TDF, attention: Attention) -> None:
        super().__init__()
        self.tdf = tdf
        self.attention = attention

    def forward(self, condition: Condition) -> Work:
        """Return what transforms frames. Shape: (B or B * S, C, N, F) -> (B * S, C, N, F)."""
        return self.tdf.sum_latents(self.attention(condition.query), condition.songs)


def _weigh(attention: Tensor, rows: Tensor, songs: int) -> Tensor:
    """Sum the latent sources' rows by each stem's attention.

    Args:
        attention: Shape (S, L).
        rows: Long ones, as they lie in memory. Shape (B or B * S, ..., L, n).
        songs: B.

    Returns:
        Shape (B * S, ..., n).
    """
    rows = rows.unflatten(0, (songs, -1))
    if rows.shape[1] == 1:
        return (attention @ rows.squeeze(1)).movedim(-2, 1).flatten(0, 1)
    own = attention.view(len(attention), *[1] * (rows.dim() - 3), -1)
    return (own @ rows).squeeze(-2).flatten(0, 1)


class LightSAFT(nn.Module):
    """The same with the sum in the bottleneck: one small spectrum for each latent source."""

    def __init__(self, squeeze: LinearLayer, expand: LinearLayer, attention: Attention) -> None:
        super().__init__()
        self.squeeze = squeeze
        self.expand = expand
        self.attention = attention

    def forward(self, condition: Condition) -> Work:
        """Return what transforms frames. Shape: (B or B * S, C, N, F) -> (B * S, C, N, F)."""
        attention = self.attention(condition.query)

        def transform(x: Tensor) -> Tensor:
            # The latent source runs slowest.
            values = self.squeeze(x).unflatten(-1, (attention.shape[1], -1))
            result: Tensor = self.expand(_weigh(attention, values, condition.songs))
            return result

        return transform


class ConditionedBlock(nn.Module):
    """TFC, the stem's modulation, and what is added to that: nothing, a TDF, latent sources.

    Shape: (B or B * S, C_in, N, F) -> (B or B * S, C_out, N, F).
    """

    def __init__(self, dense: DenseConv, transform: TDF | LaSAFT | LightSAFT | None) -> None:
        super().__init__()
        self.dense = dense
        self.transform = transform

    def forward(self, parts: list[Part], condition: Condition | None) -> Tensor:
        """Compute the block, or without a condition only what it does before it needs one.

        Shape: parts of (B or B * S, C_in, N, F), taken out of the list -> (B * S, C_out, N, F).
        B or B * S comes out where nothing tells stems apart.
        """
        y = self.dense(parts)
        parts.clear()
        return y if condition is None else self.tell(y, condition, may_replace=True)

    def tell(self, y: Tensor, condition: Condition, *, may_replace: bool) -> Tensor:
        """Go on from what the block gives without a condition.

        Args:
            y: Shape (B or B * S, C_out, N, F).
            condition: What the block is told.
            may_replace: Whether the result may be written over `y`.

        Returns:
            Shape (B * S, C_out, N, F); (B, C_out, N, F) where nothing tells stems apart.
        """
        transform: Work | None = self.transform
        if isinstance(self.transform, (LaSAFT, LightSAFT)):
            transform = self.transform(condition)

        def modulate_and_transform(x: Tensor) -> Tensor:
            x = modulate(x, condition)
            if transform is None:
                return x
            return add(x, transform(x), songs=condition.songs)

        # Images for each that goes in: those that come out, or that lie in between for one stem.
        grows = max(2, len(condition.query) * condition.songs // len(y))
        return by_frames(
            modulate_and_transform, y, training=self.training, may_replace=may_replace, grows=grows
        )


class Control(nn.Module):
    """Linear layers that make the embedding of a stem ever wider.

    Shape: (S, E) -> (S, E * 2 ** layers).
    """

    def __init__(self, embedding: int, layers: int) -> None:
        super().__init__()
        widths = [embedding << index for index in range(layers + 1)]
        self.linear = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        # The first layer has neither dropout nor norm.
        self.norm = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[2:])
        self.dropout = nn.Dropout(0.5)
        self.width = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (S, E) -> (S, E * 2 ** layers)."""
        x = torch.relu(self.linear[0](x))
        for linear, norm in zip(self.linear[1:], self.norm, strict=True):
            x = norm(self.dropout(torch.relu(linear(x))))
        return x
