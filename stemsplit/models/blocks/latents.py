"""Spectra of latent sources: the parts of a matrix that give them, and their sums for each stem.

Choi, Kim, Chung, Jung: LaSAFT. ICASSP 2021. Letters in shapes: B songs, S stems, C channels,
N frames, F bins, L latent sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from stemsplit.dsp.memory import is_recorded, new_image

Matrix = tuple[Tensor, Tensor | None]
"""Weight and bias."""


def split_latents(linear: nn.Linear, latents: int) -> list[Matrix]:
    """Return the part of a layer's weight and bias that gives each latent source's spectrum.

    Args:
        linear: In what it gives, the latent sources run fastest.
        latents: L.
    """
    weight: Tensor = linear.weight
    bias: Tensor | None = linear.bias
    if not torch.is_grad_enabled():
        # A part of a parameter would ask for gradients even so.
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    if torch.is_autocast_enabled(weight.device.type):
        # Once, instead of for every few frames.
        weight = weight.to(torch.get_autocast_dtype(weight.device.type))
    rows = [slice(first, None, latents) for first in range(latents)]
    return [(weight[some], None if bias is None else bias[some]) for some in rows]


def join_latents(matrices: Sequence[Matrix]) -> Matrix:
    """Put the outputs of matrices one behind the other."""
    biases = [bias for _, bias in matrices if bias is not None]
    return torch.cat([weight for weight, _ in matrices]), torch.cat(biases) if biases else None


def add_shares(attention: Tensor, all_spectra: Iterable[Tensor], songs: int) -> Tensor:
    """Sum the latent sources' spectra for each stem.

    Args:
        attention: How much each stem takes of each of them. Shape (S, L).
        all_spectra: L times (B or B * S, C, N, F).
        songs: B.

    Returns:
        Shape (B * S, C, N, F).
    """
    total: Tensor | None = None
    for share, spectra in zip(attention.unbind(1), all_spectra, strict=True):
        total = _add_share(total, share, spectra.unflatten(0, (songs, -1)))
    assert total is not None, "there are latent sources"
    return total.flatten(0, 1)


def _add_share(total: Tensor | None, share: Tensor, spectra: Tensor) -> Tensor:
    """Add each stem's share of a latent source.

    Args:
        total: What comes before, if anything: may be changed. Shape (B, S, C, N, F).
        share: Shape (S,).
        spectra: Shape (B, 1 or S, C, N, F).

    Returns:
        Shape (B, S, C, N, F).
    """
    # In numbers of one type: on some devices shares stay in float32 where all else is lowered.
    shares = share.to(spectra.dtype).view(-1, 1, 1, 1)
    if is_recorded(share, spectra):
        own = shares * spectra
        return own if total is None else total + own
    if total is not None:
        return total.addcmul_(shares, spectra)
    shape = (len(spectra) * len(share), *spectra.shape[2:])
    total = new_image(spectra.flatten(0, 1), shape).unflatten(0, (len(spectra), -1))
    return torch.mul(shares, spectra, out=total)
