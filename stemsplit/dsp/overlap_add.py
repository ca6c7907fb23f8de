"""Cut a stream into overlapping chunks, and join what a network made of them without a seam.

    chunk k      |----------------|
    chunk k+1              |----------------|
                           |  ramp |              0 -> 1 across the overlap, less the edges

Two neighbouring chunks are cross-faded linearly over their overlap: 1 - r and r add up to 1, so a
network that changes nothing gives back what it was fed. At the two ends of the overlap an edge is
left out of the ramp, where a chunk's own border (a padded STFT frame, zeros) is too near.
The last chunk is moved back so that it ends with the song: real audio is its context, not zeros.
All chunks begin on one grid, so that a transform's frames lie where those of the whole song would.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from stemsplit.dsp.memory import join


class Chunk(NamedTuple):
    """A piece of a song.

    Attributes:
        start: Position of its first sample.
        samples: Shape (C, n).
    """

    start: int
    samples: Tensor


class SampleQueue:
    """Samples in, the same samples out in whatever pieces are wanted. Shape of pieces: (..., n)."""

    def __init__(self) -> None:
        self._pieces: deque[Tensor] = deque()
        self.length = 0

    @property
    def head(self) -> int:
        """How many samples can be taken without a copy: those of the first piece."""
        return self._pieces[0].shape[-1] if self._pieces else 0

    def push(self, piece: Tensor) -> None:
        """Put samples behind those that are there."""
        if piece.shape[-1]:
            self._pieces.append(piece)
            self.length += piece.shape[-1]

    def pop(self, count: int) -> Tensor:
        """Take exactly `count` samples from the front; there must be that many and at least one."""
        taken = []
        left = count
        while left:
            head = self._pieces.popleft()
            if head.shape[-1] > left:
                self._pieces.appendleft(head[..., left:])
                head = head[..., :left]
            taken.append(head)
            left -= head.shape[-1]
        self.length -= count
        return taken[0] if len(taken) == 1 else join(taken)


def count_chunks(
    total_samples: int, chunk_samples: int | None, overlap_samples: int, lead_samples: int = 0
) -> int:
    """Return how many chunks a `Chunker` makes of a song.

    Args:
        total_samples: Length of the song.
        chunk_samples: See `Chunker`.
        overlap_samples: See `Chunker`.
        lead_samples: See `Chunker`.
    """
    if chunk_samples is None:
        return 1
    beyond = max(0, total_samples + lead_samples - chunk_samples)
    return 1 + -(-beyond // (chunk_samples - overlap_samples))


class Chunker:
    """Regroup blocks of any length into chunks of one length.

    All chunks have `chunk_samples` samples, except the only chunk of a shorter song, and the last
    one, which may lack less than a step of the grid.
    """

    def __init__(
        self,
        chunk_samples: int | None,
        overlap_samples: int,
        lead_samples: int = 0,
        grid_samples: int = 1,
    ) -> None:
        """Prepare a stream.

        Args:
            chunk_samples: Length of a chunk; None for one chunk as long as the song.
            overlap_samples: How much of a chunk the next one sees again.
            lead_samples: Zeros to put before the song, which moves all borders.
            grid_samples: Chunks begin at multiples of it; `chunk_samples - overlap_samples` has to
                be one.
        """
        self._chunk_samples = chunk_samples
        self._hop_samples = None if chunk_samples is None else chunk_samples - overlap_samples
        self._lead_samples = lead_samples
        self._grid_samples = grid_samples
        self._pieces: list[Tensor] = []
        self._start = 0
        self._held = 0
        self._emitted_end = 0

    def feed(self, block: Tensor) -> list[Chunk]:
        """Take the next block and return the chunks that it completes.

        Args:
            block: Shape (C, n), n from 0 upwards.
        """
        if self._lead_samples:
            self._hold(block.new_zeros(block.shape[0], self._lead_samples))
            self._lead_samples = 0
        self._hold(block)
        chunks = []
        while (
            self._chunk_samples is not None and self._next_start + self._chunk_samples <= self._end
        ):
            chunks.append(self._emit(self._next_start, self._chunk_samples))
        return chunks

    def flush(self) -> list[Chunk]:
        """Return the last chunk, if anything is not yet part of one."""
        if self._end == self._emitted_end:
            return []
        wanted = self._end if self._chunk_samples is None else self._chunk_samples
        steps = -(-(self._end - wanted) // self._grid_samples)
        start = max(self._start, steps * self._grid_samples)
        return [self._emit(start, self._end - start)]

    @property
    def _end(self) -> int:
        return self._start + self._held

    @property
    def _next_start(self) -> int:
        # Samples are kept from the last chunk's start on: the very last may begin anywhere there.
        return self._start + self._hop_samples if self._emitted_end and self._hop_samples else 0

    def _hold(self, block: Tensor) -> None:
        if block.shape[-1]:
            self._pieces.append(block)
            self._held += block.shape[-1]

    def _emit(self, start: int, count: int) -> Chunk:
        held = self._pieces[0] if len(self._pieces) == 1 else join(self._pieces)
        held = held[..., start - self._start :]
        self._pieces, self._start, self._held = [held], start, held.shape[-1]
        self._emitted_end = start + count
        return Chunk(start, held[..., :count])


class Joiner:
    """Join chunks in the order of their starts into one stream."""

    def __init__(self, overlap_samples: int, edge_samples: int) -> None:
        """Prepare a stream.

        Args:
            overlap_samples: Length of the cross-fade, edges included.
            edge_samples: What is left out of it at either end; never more than leaves a ramp.
        """
        edge = max(0, min(edge_samples, overlap_samples // 2 - 1))
        inner = overlap_samples - 2 * edge
        ramp = (torch.arange(inner, dtype=torch.float32) + 0.5) / max(1, inner)
        self._ramp = torch.cat((torch.zeros(edge), ramp, torch.ones(edge)))
        self._overlap = overlap_samples
        self._tail: Tensor | None = None
        self._end = 0

    def add(self, start: int, piece: Tensor) -> list[Tensor]:
        """Add a chunk's result and return what no later chunk will change.

        Args:
            start: Position of the piece; at the most the end of the last one less the overlap.
            piece: Shape (..., n).

        Returns:
            Pieces of any length, one behind the other, following what was returned before. Shape of
            each: (..., m).
        """
        pieces = [piece]
        if self._tail is not None:
            overlap = self._tail.shape[-1]
            piece = piece[..., self._end - overlap - start :]
            joint = torch.lerp(self._tail, piece[..., :overlap], self._ramp[:overlap])
            pieces = [joint, piece[..., overlap:]]
            start = self._end - overlap
        self._end = start + piece.shape[-1]
        queue = SampleQueue()
        for part in pieces:
            queue.push(part)
        done = []
        while (count := min(queue.head, queue.length - self._overlap)) > 0:
            done.append(queue.pop(count))
        # A copy: a view would keep all of the chunk until the next one.
        self._tail = join([queue.pop(queue.length)]) if queue.length else piece[..., :0].clone()
        return done

    def flush(self) -> Tensor | None:
        """Return the rest, once, at the end; None when nothing was ever added."""
        return self._tail
