"""Memory for large arrays: what one has left is taken by the next, and not zeroed between.

The arrays of every chunk of a song are alike. The kernel gives such arrays out page by page,
zeroed, each time anew; the heap keeps them, cut up among all that lives longer, and grows over
hours. Here they lie in an arena of their own, side by side: what is free is one piece again as soon
as its neighbours are. Of several workers of chunks each has an arena for itself, so that every
chunk's arrays lie where the last one's lay, and an arena is as large as one chunk needs.
"""

from __future__ import annotations

import bisect
import contextlib
import math
import mmap
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# What Python maps is for other processes to share, where it can be, unless it is told otherwise.
_PRIVATE = {"flags": mmap.MAP_PRIVATE} if hasattr(mmap, "MAP_PRIVATE") else {}

# What makes a kernel take pages back; where it is macOS's, only the second does.
_ADVICE: int | None = getattr(mmap, "MADV_DONTNEED", None)
if sys.platform == "darwin":
    _ADVICE = getattr(mmap, "MADV_FREE", None)

FEWEST_BYTES = 1 << 18
"""Smaller arrays are torch's own."""
GRAIN_BYTES = mmap.PAGESIZE
SEGMENT_BYTES = 1 << 30
"""Of addresses; memory is taken as it is first written to."""
RATIONED_BYTES = 1 << 26
"""Where addresses count as memory."""


def are_addresses_rationed() -> bool:
    """Tell whether addresses count: on Windows, and elsewhere where somebody limits them."""
    if os.name == "nt":
        return True
    import resource  # not on Windows

    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return True
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        return False


class _Segment:
    """A run of addresses, parts of which are lent.

    Attributes:
        memory: All of it.
        free: Where what is not lent begins and ends; ascending, and no two of them meet.
    """

    def __init__(self, size: int) -> None:
        """Reserve addresses.

        Raises:
            OSError: There are none to be had.
        """
        self.memory = mmap.mmap(-1, size, **_PRIVATE)
        self.free = [(0, size)]
        if hasattr(mmap, "MADV_HUGEPAGE"):
            # Large pages are had in fewer steps. Not every kernel has them.
            with contextlib.suppress(OSError):
                self.memory.madvise(mmap.MADV_HUGEPAGE)

    def put_back(self, start: int, end: int) -> None:
        """Join a part with what is free beside it."""
        place = bisect.bisect(self.free, (start, end))
        if place < len(self.free) and self.free[place][0] == end:
            end = self.free.pop(place)[1]
        if place > 0 and self.free[place - 1][1] == start:
            place -= 1
            start = self.free.pop(place)[0]
        self.free.insert(place, (start, end))

    def forget(self) -> None:
        """Give the memory of what is free back, and keep the addresses."""
        if _ADVICE is not None:
            for start, end in self.free:
                self.memory.madvise(_ADVICE, start, end - start)


class _Loan(weakref.ref):  # type: ignore[type-arg]  # of numpy arrays, which one does not matter
    """A look at what stands on a part of a segment, which ends with it."""

    __slots__ = ("end", "segment", "start")

    segment: _Segment
    start: int
    end: int


class Arena:
    """Memory that is lent to tensors, and comes back when these are gone. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loans: dict[int, _Loan] = {}
        # Tensors die in any thread and at any time, this lock held or not: sorted in later.
        self._ended: deque[_Loan] = deque()
        self._segments: list[_Segment] = []

    def lend(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor that holds whatever is there.

        Raises:
            MemoryError: There is not enough.
        """
        size = math.prod(shape) * dtype.itemsize
        with self._lock:
            self._sort_in()
            segment, start, end = self._take(-(-size // GRAIN_BYTES) * GRAIN_BYTES)
            # The tensor keeps this array for as long as anything looks at its storage. A search for
            # garbage may end others meanwhile: `_ended` is what that may write to.
            raw = np.frombuffer(segment.memory, np.uint8, size, start)
            loan = _Loan(raw, self._ended.append)
            loan.segment, loan.start, loan.end = segment, start, end
            self._loans[id(loan)] = loan
        return torch.from_numpy(raw).view(dtype).view(shape)

    def _take(self, size: int) -> tuple[_Segment, int, int]:
        """Take the first part that is large enough, of a new segment where there is none.

        The first: what lies low is in use already, and what is never reached costs nothing.
        """
        for segment in self._segments:
            for place, (start, end) in enumerate(segment.free):
                if end - start >= size:
                    return self._cut(segment, place, size)
        segment = self._reserve(size)
        self._segments.append(segment)
        return self._cut(segment, 0, size)

    def _cut(self, segment: _Segment, place: int, size: int) -> tuple[_Segment, int, int]:
        """Take the beginning of a free part."""
        start, end = segment.free.pop(place)
        if start + size < end:
            segment.free.insert(place, (start + size, end))
        return segment, start, start + size

    def _reserve(self, size: int) -> _Segment:
        usual = RATIONED_BYTES if are_addresses_rationed() else SEGMENT_BYTES
        for number in (max(size, usual), size):
            with contextlib.suppress(OSError):
                return _Segment(number)
        self._forget()
        try:
            return _Segment(size)
        except OSError as error:
            raise MemoryError(f"{size} bytes could not be had") from error

    def release(self) -> None:
        """Give back all that is not lent."""
        with self._lock:
            self._sort_in()
            self._forget()

    def _forget(self) -> None:
        kept = []
        for segment in self._segments:
            if segment.free != [(0, len(segment.memory))]:
                segment.forget()
                kept.append(segment)
        self._segments = kept

    def forget_lock(self) -> None:
        """Begin with a lock of one's own: a thread of the parent process may hold the old one."""
        self._lock = threading.Lock()

    def _sort_in(self) -> None:
        while self._ended:
            loan = self._ended.popleft()
            del self._loans[id(loan)]
            loan.segment.put_back(loan.start, loan.end)


class _Arenas(threading.local):
    """The calling thread's arena: the one that all have in common, or its own."""

    lease: Lease | None = None


class Lease:
    """A thread's own arena, which the next thread takes over when it ends."""

    def __init__(self) -> None:
        try:
            self.arena = _IDLE.pop()
        except IndexError:
            self.arena = Arena()
            _ALL.append(self.arena)

    def __del__(self) -> None:
        _IDLE.append(self.arena)


_COMMON = Arena()
_IDLE: list[Arena] = []
_ALL = [_COMMON]
_OWN = _Arenas()


def _forget_locks() -> None:
    for arena in _ALL:
        arena.forget_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


def use_own_arena() -> None:
    """Give the calling thread an arena of its own until it ends; another takes it over then."""
    _OWN.lease = _OWN.lease or Lease()


def current_lease() -> Lease | None:
    """Return what the calling thread has of an arena of its own, if it has one."""
    return _OWN.lease


@contextlib.contextmanager
def use_lease(lease: Lease | None) -> Iterator[None]:
    """Let the calling thread take arrays where another does, which waits for it.

    Args:
        lease: The other's `current_lease`.
    """
    own, _OWN.lease = _OWN.lease, lease
    try:
        yield
    finally:
        _OWN.lease = own


def release() -> None:
    """Give back what no array stands on: where songs end that left more than a chunk's arrays."""
    for arena in list(_ALL):
        arena.release()


def hand_over(array: Tensor) -> Tensor:
    """Return what outlives a worker's chunk: a copy outside of its own arena, or the array.

    Raises:
        MemoryError: There is not enough.
    """
    is_large = array.device.type == "cpu" and array.untyped_storage().nbytes() >= FEWEST_BYTES
    if _OWN.lease is None or not is_large:
        return array
    return _lend(_COMMON, array.shape, array.dtype).copy_(array)


def _lend(arena: Arena, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Lend from an arena, if need be after all others have given back what lies idle there."""
    try:
        return arena.lend(shape, dtype)
    except MemoryError:
        release()
    return arena.lend(shape, dtype)


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
    arena = _COMMON if _OWN.lease is None else _OWN.lease.arena
    return _lend(arena, shape, dtype)


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


def cat(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Return `torch.cat(parts, dim)`, large ones in used memory; images keep their order of axes.

    Shape: (B, C, H, W) but for `dim`.

    Raises:
        MemoryError: There is not enough.
    """
    first = parts[0]
    if is_recorded(*parts) or any(part.dtype != first.dtype for part in parts):
        return torch.cat(tuple(parts), dim)
    shape = list(first.shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    return torch.cat(tuple(parts), dim, out=new_image(first, shape))


def has_channels_last(image: Tensor) -> bool:
    """Tell whether a pixel's channels lie side by side in memory. Shape: (B, C, ...)."""
    return image.shape[1] > 1 and image.stride(1) == 1


def new_image(like: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """Return memory for an image, channels side by side where those of another are.

    Args:
        like: Of the same type of numbers. Shape (B', C', H', W').
        shape: (B, C, H, W); that of the other by default.

    Raises:
        MemoryError: There is not enough.
    """
    batch, channels, height, width = like.shape if shape is None else shape
    if has_channels_last(like):
        return new_empty(like, (batch, height, width, channels)).permute(0, 3, 1, 2)
    return new_empty(like, (batch, channels, height, width))


def is_recorded(*tensors: Tensor) -> bool:
    """Tell whether somebody writes down what is computed: for gradients, or for a graph."""
    # In this order: torch.compile cannot look past the second question.
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return True
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def join(pieces: Sequence[Tensor], dim: int = -1) -> Tensor:
    """Return `torch.cat(pieces, dim)`, large ones in used memory; of one piece a copy.

    Args:
        pieces: Without gradients. Shape of each: (..., n).
        dim: Which axis grows.
    """
    shape = list(pieces[0].shape)
    shape[dim] = sum(piece.shape[dim] for piece in pieces)
    return torch.cat(tuple(pieces), dim=dim, out=new_empty(pieces[0], shape))
