"""Arrays on their way to a graphics card and back, which nobody waits for on the way."""

from __future__ import annotations

import torch
from torch import Tensor


def send(array: Tensor, device: torch.device) -> Tensor:
    """Return an array on a CUDA device; what is asked of it there begins when it has come.

    Args:
        array: On the CPU.
        device: Where it is to go.
    """
    # Only what lies side by side in memory that stays in its place can a card fetch by itself.
    pinned = torch.empty(array.shape, dtype=array.dtype, pin_memory=True)
    return pinned.copy_(array).to(device, non_blocking=True)


class Return:
    """An array's way to the CPU from a CUDA device, as soon as that has computed it."""

    def __init__(self, array: Tensor) -> None:
        """Have it fetched.

        Args:
            array: On the device, or yet to be computed there.
        """
        self._pinned = torch.empty(array.shape, dtype=array.dtype, pin_memory=True)
        self._pinned.copy_(array, non_blocking=True)
        # Whoever waits sleeps: its core has sound to decode and to write.
        self._there = torch.cuda.Event(blocking=True)
        self._there.record(torch.cuda.current_stream(array.device))

    def wait(self) -> Tensor:
        """Return it on the CPU, in ordinary memory, once it is there."""
        self._there.synchronize()
        return self._pinned.clone()
