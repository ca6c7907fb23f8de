"""What runtimes have in common that are given a network of their own, made for one item."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]

TOLERANCE = 1e-4
"""How far such a network's output may be from torch's, both as norms over all values."""


def run_items(run: Callable[[Tensors], Tensors], inputs: Tensors) -> Tensors:
    """Run every item of a batch by itself, and put the outputs together.

    Args:
        run: Takes and gives tensors of one item.
        inputs: Of the same number of items each.
    """
    results = [run(item) for item in zip(*(tensor.split(1) for tensor in inputs), strict=True)]
    if len(results) == 1:
        return results[0]
    return tuple(torch.cat(parts) for parts in zip(*results, strict=True))


def compare(expected: Sequence[Tensors], got: Sequence[Tensors]) -> float:
    """Return the largest norm of a difference, relative to what was expected; NaN if one is."""
    distances = [
        (other - one).norm() / one.norm().clamp_min(torch.finfo(torch.float32).tiny)
        for outputs, others in zip(expected, got, strict=True)
        for one, other in zip(outputs, others, strict=True)
    ]
    # Unlike Python's own, torch's largest of numbers of which one is NaN is NaN.
    return float(torch.stack(distances).max())
