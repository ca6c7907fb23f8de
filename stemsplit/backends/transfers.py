"""Arrays on their way to a device and back."""

from __future__ import annotations

import torch
from torch import Tensor


def send(array: Tensor, device: torch.device) -> Tensor:
    """Return an array on a device. The way to a graphics card goes beside what that computes.

    Args:
        array: On the CPU.
        device: Where it is to go.
    """
    if device.type != "cuda":
        return array.to(device)
    # Only from memory that stays in its place can a card fetch by itself.
    return array.pin_memory().to(device, non_blocking=True)


class Return:
    """An array's way to the CPU, from a graphics card as soon as that has computed it."""

    def __init__(self, array: Tensor) -> None:
        """Have it fetched; nothing waits for that here.

        Args:
            array: On any device.
        """
        self._array = array
        self._there: torch.cuda.Event | None = None
        if array.device.type == "cuda":
            self._array = torch.empty(array.shape, dtype=array.dtype, pin_memory=True)
            self._array.copy_(array, non_blocking=True)
            # Whoever waits sleeps: its core has sound to decode and to write.
            self._there = torch.cuda.Event(blocking=True)
            self._there.record(torch.cuda.current_stream(array.device))

    def wait(self) -> Tensor:
        """Return it on the CPU, once it is there."""
        if self._there is not None:
            self._there.synchronize()
        return self._array.cpu()
