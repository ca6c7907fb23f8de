"""Complex spectrograms as the real planes that a network reads, and back.

Choi et al., ISMIR 2020, section 2.1: real and imaginary parts as channels ("CaC"), or magnitudes
with the mixture's phase; the network gives the spectrogram itself, or what to multiply it by.

Letters in shapes: B batch, S stems, C channels, F bins, N frames, P planes: 2 C complex, or C.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stemsplit.dsp.memory import new_empty
from stemsplit.dsp.stft import magnitudes

Kind = Literal["complex", "magnitude"]
Estimate = Literal["mapping", "masking"]


def count_planes(kind: Kind, channels: int) -> int:
    """Return P."""
    return 2 * channels if kind == "complex" else channels


def to_planes(spectrum: Tensor, kind: Kind) -> Tensor:
    """Return the planes, the real parts of all channels first. (B, C, F, N) -> (B, P, N, F)."""
    if kind == "magnitude":
        return magnitudes(spectrum).transpose(2, 3)
    parts = torch.view_as_real(spectrum).permute(0, 3, 2, 4, 1)
    if spectrum.device.type != "cpu" or torch.is_grad_enabled():
        return parts.permute(0, 3, 4, 1, 2).flatten(1, 2)
    # Side by side, as convolutions on a processor read them in use.
    planes = new_empty(parts, (*parts.shape[:3], parts.shape[3:].numel()))
    planes.view(parts.shape).copy_(parts)
    return planes.permute(0, 3, 1, 2)


def from_planes(planes: Tensor, mixture: Tensor, kind: Kind, estimate: Estimate) -> Tensor:
    """Return the stems' spectrograms.

    Args:
        planes: What the network gave. Shape (B, S, P, N, F).
        mixture: Complex. Shape (B, C, F, N).
        kind: What the planes are.
        estimate: "mapping": the stem's; "masking": the stem's over the mixture's, plane by plane.

    Returns:
        Complex. Shape (B, S, C, F, N).
    """
    if kind == "magnitude":
        gains = planes.transpose(3, 4)
        if estimate == "masking":
            return gains * mixture.unsqueeze(1)
        return torch.polar(gains, mixture.angle().unsqueeze(1).expand_as(gains))
    # A mask has no imaginary unit: it scales real and imaginary parts each for itself.
    parts = planes.unflatten(2, (2, -1)).permute(0, 1, 3, 5, 4, 2)
    if estimate == "masking":
        parts = parts * torch.view_as_real(mixture).unsqueeze(1)
    return torch.view_as_complex(parts.contiguous())
