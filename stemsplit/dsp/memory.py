"""Memory for large arrays: what one has left is taken by the next, and not zeroed between.

The arrays of every chunk of a song are alike. The kernel gives such arrays out page by page,
zeroed, each time anew; a heap that keeps them instead is cut up over hours, and grows. Here each
has a block of its own, outside the heap.
"""

from __future__ import annotations

import math
import mmap
import os
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
"""A block that so many arrays have passed over is given back."""


class _Loan(weakref.ref):  # type: ignore[type-arg]  # of numpy arrays, which one does not matter
    """A look at what stands on a block, which ends with it."""

    __slots__ = ("block",)

    block: mmap.mmap


class Blocks:
    """Blocks of memory that are lent to tensors, and come back when these are gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loans: dict[int, _Loan] = {}
        # Tensors die in any thread and at any time, this lock held or not: sorted in later.
        self._ended: deque[_Loan] = deque()
        self._free: list[tuple[int, mmap.mmap]] = []
        self._takes = 0

    def take(self, size: int) -> mmap.mmap:
        """Return a block of at least so many bytes.

        Raises:
            MemoryError: There is none to be had.
        """
        with self._lock:
            self._sort_in()
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
        whole = -(-size // GRAIN_BYTES) * GRAIN_BYTES
        try:
            return mmap.mmap(-1, whole, **_PRIVATE)
        except OSError:
            self.release()
        try:
            return mmap.mmap(-1, whole, **_PRIVATE)
        except OSError as error:
            raise MemoryError(f"{whole} bytes could not be had") from error

    def lend(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor on a block of its own, holding whatever is there.

        Raises:
            MemoryError: There is not enough.
        """
        size = math.prod(shape) * dtype.itemsize
        block = self.take(size)
        # The tensor keeps this array for as long as anything looks at its storage.
        raw = np.frombuffer(block, np.uint8, size)
        loan = _Loan(raw, self._ended.append)
        loan.block = block
        self._loans[id(loan)] = loan
        return torch.from_numpy(raw).view(dtype).view(shape)

    def release(self) -> None:
        """Give back all blocks that are not lent."""
        with self._lock:
            self._sort_in()
            self._free.clear()

    def forget_lock(self) -> None:
        """Begin with a lock of one's own: a thread of the parent process may hold the old one."""
        self._lock = threading.Lock()

    def _sort_in(self) -> None:
        while self._ended:
            loan = self._ended.popleft()
            del self._loans[id(loan)]
            self._free.append((self._takes, loan.block))


_BLOCKS = Blocks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_BLOCKS.forget_lock)


def release() -> None:
    """Give back what no array stands on: where songs end that left more than a chunk's arrays."""
    _BLOCKS.release()


def new_empty(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """Return `like.new_empty(shape, dtype=dtype)`; large ones on a processor from used memory.

    Args:
        like: Tells the device, and the type of numbers where none is given.
        shape: Of the result, which is contiguous.
        dtype: Type of its numbers.

    Raises:
        MemoryError: There is not enough.
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
    if is_recorded(*parts):
        return torch.stack(tuple(parts), dim=1)
    whole = new_empty(first, (first.shape[0], len(parts), *first.shape[1:]))
    return torch.stack(tuple(parts), dim=1, out=whole)


def is_recorded(*tensors: Tensor) -> bool:
    """Tell whether somebody writes down what is computed: for gradients, or for a graph."""
    # In this order: torch.compile cannot look past the second question.
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return True
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def join(pieces: Sequence[Tensor]) -> Tensor:
    """Return `torch.cat(pieces, dim=-1)`, large ones in used memory; of one piece a copy.

    Args:
        pieces: Without gradients. Shape of each: (..., n).
    """
    first = pieces[0]
    length = sum(piece.shape[-1] for piece in pieces)
    whole = new_empty(first, (*first.shape[:-1], length))
    return torch.cat(tuple(pieces), dim=-1, out=whole)
