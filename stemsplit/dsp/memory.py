"""Memory for large arrays: what one has left is taken by the next, and not zeroed between.

The arrays of every chunk of a song are alike. The kernel gives such arrays out page by page,
zeroed, each time anew; a heap that keeps them instead is cut up over hours, and grows. Here each
has a block of its own, outside the heap.
"""

from __future__ import annotations

import math
import mmap
import threading
import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# What Python maps is for other processes to share, where it can be, unless it is told otherwise.
_PRIVATE = {"flags": mmap.MAP_PRIVATE} if hasattr(mmap, "MAP_PRIVATE") else {}

FEWEST_BYTES = 1 << 18
"""Smaller arrays are torch's own."""
GRAIN_BYTES = 1 << 16
MOST_SPARE = 1.25
"""How much larger than an array the block may be that it is laid into."""
IDLE_TAKES = 400
"""A block that so many arrays have passed over is given back: another kind of song has begun."""


class Blocks:
    """Blocks of memory that are lent to tensors, and come back when these are gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Tensors die in any thread and at any time, this lock held or not: sorted in later.
        self._returned: deque[mmap.mmap] = deque()
        self._free: list[tuple[int, mmap.mmap]] = []
        self._takes = 0

    def take(self, size: int) -> mmap.mmap:
        """Return a block of at least so many bytes."""
        with self._lock:
            while self._returned:
                self._free.append((self._takes, self._returned.popleft()))
            self._takes += 1
            self._free = [one for one in self._free if self._takes - one[0] < IDLE_TAKES]
            fitting = [
                (len(block), -place)
                for place, (_, block) in enumerate(self._free)
                if size <= len(block) <= MOST_SPARE * size
            ]
            if fitting:
                # Of several the one that came back last: what is not needed lies idle, and goes.
                return self._free.pop(-min(fitting)[1])[1]
        return mmap.mmap(-1, -(-size // GRAIN_BYTES) * GRAIN_BYTES, **_PRIVATE)

    def lend(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor on a block of its own, holding whatever is there."""
        size = math.prod(shape) * dtype.itemsize
        block = self.take(size)
        # The tensor keeps this array for as long as anything looks at its storage.
        raw = np.frombuffer(block, np.uint8, size)
        weakref.finalize(raw, self._returned.append, block).atexit = False
        return torch.from_numpy(raw).view(dtype).view(shape)


_BLOCKS = Blocks()


def new_empty(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """Return `like.new_empty(shape, dtype=dtype)`; large ones on a processor from used memory.

    Args:
        like: Tells the device, and the type of numbers where none is given.
        shape: Of the result, which is contiguous.
        dtype: Type of its numbers.
    """
    dtype = dtype or like.dtype
    if like.device.type != "cpu" or math.prod(shape) * dtype.itemsize < FEWEST_BYTES:
        return like.new_empty(shape, dtype=dtype)
    return _BLOCKS.lend(shape, dtype)


def stack(parts: Sequence[Tensor]) -> Tensor:
    """Return `torch.stack(parts, dim=1)`, large ones in used memory; one part as it lies.

    Shape: S times (B, ...) -> (B, S, ...).
    """
    first = parts[0]
    if len(parts) == 1:
        return first.unsqueeze(1)
    if first.requires_grad or torch._C._is_tracing():
        return torch.stack(tuple(parts), dim=1)
    whole = new_empty(first, (first.shape[0], len(parts), *first.shape[1:]))
    return torch.stack(tuple(parts), dim=1, out=whole)


def join(pieces: Sequence[Tensor]) -> Tensor:
    """Return `torch.cat(pieces, dim=-1)`, large ones in used memory; of one piece a copy.

    Args:
        pieces: Without gradients. Shape of each: (..., n).
    """
    first = pieces[0]
    length = sum(piece.shape[-1] for piece in pieces)
    whole = new_empty(first, (*first.shape[:-1], length))
    return torch.cat(tuple(pieces), dim=-1, out=whole)
