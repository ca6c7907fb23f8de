"""Transposed convolutions as the ordinary convolutions that they consist of.

A transposed convolution of stride s spreads its input out, with s - 1 zeros between two samples.
Along one axis, output s q + r therefore meets every s-th tap of the kernel only, and every phase r
is an ordinary convolution with its share of the taps (Shi et al., Is the deconvolution layer the
same as a convolutional layer?, 2016). With kernel w and padding p:

    out[s q + r] = sum_j w[t + s j] x[q + b - j],    t = (r + p) mod s,  b = (r + p) div s

Processors have fast code for ordinary convolutions and slower code for transposed ones.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import TypeIs

from stemsplit.dsp.memory import new_empty

FEW_OUTPUTS = 8
"""All phases of so few channels are one convolution: apart, they would leave vectors half empty."""


def split_phases(core: nn.Module) -> nn.Module:
    """Return a network that computes the same without transposed convolutions, where that can be.

    Args:
        core: Left as it is. The two share all other layers.
    """
    if _has_phases(core):
        return PhasedConvTranspose2d(core)
    children = {name: split_phases(child) for name, child in core.named_children()}
    if all(child is core._modules[name] for name, child in children.items()):
        return core
    changed = copy.copy(core)
    # nn.Module keeps its children in a dictionary of the instance: give the copy its own.
    changed._modules = {**core._modules, **children}
    return changed


def _has_phases(layer: nn.Module) -> TypeIs[nn.ConvTranspose2d]:
    return (
        isinstance(layer, nn.ConvTranspose2d)
        and layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.stride[0] == layer.stride[1] > 1
        and min(layer.kernel_size) >= layer.stride[0]
    )


class _Phase(NamedTuple):
    """A phase along one axis.

    Attributes:
        first: Which value of the transposed kernel is its own kernel's last; every stride-th after
            that, back to front, are the others.
        before: How many samples before q the kernel begins.
    """

    first: int
    before: int


def _plan_axis(kernel: int, stride: int, padding: int) -> list[_Phase]:
    phases = []
    for offset in range(stride):
        shift, first = divmod(offset + padding, stride)
        phases.append(_Phase(first, len(range(first, kernel, stride)) - 1 - shift))
    return phases


class PhasedConvTranspose2d(nn.Module):
    """A transposed convolution with its weights rearranged for ordinary ones, for inference.

    Shape: (B, C_in, H, W) -> (B, C_out, H_out, W_out), as `nn.ConvTranspose2d` says.
    """

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        """Rearrange a layer's weights.

        Args:
            layer: Of one stride above 1 and no larger than the kernel; no groups, no dilation.
        """
        super().__init__()
        assert not isinstance(layer.padding, str), "torch gives no words to transposed layers"
        self._stride = stride = layer.stride[0]
        axes = list(zip(layer.kernel_size, layer.padding, layer.output_padding, strict=True))
        self._excess = [size + extra - stride - 2 * pad for size, pad, extra in axes]
        rows, columns = (_plan_axis(size, stride, pad) for size, pad, _ in axes)
        # (C_in, C_out, K, K) -> (C_out, C_in, K, K), as ordinary convolutions have it.
        weight = layer.weight.detach().transpose(0, 1)
        bias = None if layer.bias is None else layer.bias.detach()
        parts = [
            _Part(
                weight[:, :, row.first :: stride, column.first :: stride].flip(2, 3),
                bias,
                row.before,
                column.before,
            )
            for row in rows
            for column in columns
        ]
        self._is_joint = layer.out_channels * stride * stride <= FEW_OUTPUTS
        self._parts = nn.ModuleList([_join_parts(parts)] if self._is_joint else parts)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C_in, H, W) -> (B, C_out, H_out, W_out)."""
        stride = self._stride
        rows, columns = (
            stride * length + excess
            for length, excess in zip(x.shape[2:], self._excess, strict=True)
        )
        if self._is_joint:
            phases = self._parts[0](x, -(-rows // stride), -(-columns // stride))
            return functional.pixel_shuffle(phases, stride)[:, :, :rows, :columns]
        out: Tensor | None = None
        for index, part in enumerate(self._parts):
            row, column = divmod(index, stride)
            phase: Tensor = part(x, -(-(rows - row) // stride), -(-(columns - column) // stride))
            if out is None:
                pixels = new_empty(phase, (len(phase), rows, columns, phase.shape[1]))
                out = pixels.permute(0, 3, 1, 2)
            out[:, :, row::stride, column::stride] = phase
        assert out is not None, "a stride has at least one phase"
        return out


class _Part(nn.Module):
    """An ordinary convolution whose kernel begins a number of samples before its output's place."""

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: Tensor, bias: Tensor | None, rows_before: int, columns_before: int
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.before = rows_before, columns_before

    @property
    def after(self) -> list[int]:
        """How many samples behind its output's place the kernel ends."""
        return [
            size - 1 - before
            for size, before in zip(self.weight.shape[2:], self.before, strict=True)
        ]

    def forward(self, x: Tensor, *counts: int) -> Tensor:
        """Shape: (B, C_in, H, W) -> (B, C_out, *counts)."""
        pads = [
            max(0, before, count + after - length)
            for before, after, count, length in zip(
                self.before, self.after, counts, x.shape[2:], strict=True
            )
        ]
        wide = functional.conv2d(x, self.weight, self.bias, padding=pads)
        for axis, (pad, before, count) in enumerate(zip(pads, self.before, counts, strict=True)):
            wide = wide.narrow(2 + axis, pad - before, count)
        return wide


def _join_parts(parts: Sequence[_Part]) -> _Part:
    """Make one convolution of all phases, whose channels are (C_out, row phase, column phase)."""
    befores = [max(part.before[axis] for part in parts) for axis in (0, 1)]
    sizes = [befores[axis] + max(part.after[axis] for part in parts) + 1 for axis in (0, 1)]
    weights = []
    for part in parts:
        lead = [before - own for before, own in zip(befores, part.before, strict=True)]
        rest = [
            size - first - own
            for size, first, own in zip(sizes, lead, part.weight.shape[2:], strict=True)
        ]
        weights.append(functional.pad(part.weight, (lead[1], rest[1], lead[0], rest[0])))
    bias = parts[0].bias
    if bias is not None:
        bias = bias.repeat_interleave(len(parts))
    return _Part(torch.stack(weights, dim=1).flatten(0, 1), bias, *befores)
