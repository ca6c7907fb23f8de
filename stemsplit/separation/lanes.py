"""A song's way through one network or several, in chunks, and the average of what comes out."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stemsplit.backends.workers import Workers, wait_for
from stemsplit.dsp.overlap_add import Chunk, Chunker, Joiner, SampleQueue, count_chunks

if TYPE_CHECKING:
    from stemsplit.separation.framed_network import FramedNetwork


def share_out(chunks: int | None, most: int, workers: int) -> Iterator[int]:
    """Yield how many chunks go together, batch after batch, without end.

    All workers are to be busy to the end: batches are alike, and each worker has as many of them.

    Args:
        chunks: How many there are, as far as anybody knows.
        most: How many may go together.
        workers: How many batches run at once.
    """
    if chunks:
        turns = -(-chunks // (most * workers))
        batches = min(chunks, turns * workers)
        for place in range(batches):
            yield chunks * (place + 1) // batches - chunks * place // batches
    yield from itertools.repeat(most)


class Lane:
    """One run of the song through one network."""

    def __init__(
        self, network: FramedNetwork, lead: int, weight: float, total_samples: int | None = None
    ) -> None:
        """Begin a run.

        Args:
            network: What the chunks go through.
            lead: Zeros before the song, in samples, which move all of its chunks.
            weight: How much this run counts.
            total_samples: How long the song is, as far as anybody knows.
        """
        framing = network.framing
        self.network = network
        self.shares = weight * network.shares[:, None, None]
        self.ready = SampleQueue()
        self._chunker = Chunker(
            framing.chunk_samples, framing.overlap_samples, lead, framing.grid_samples
        )
        chunks = total_samples and count_chunks(
            total_samples, framing.chunk_samples, framing.overlap_samples, lead
        )
        self._sizes = share_out(chunks, network.batch_size, network.workers)
        self._size = next(self._sizes)
        self._gathered: list[Chunk] = []
        self._joiner = Joiner(framing.overlap_samples, framing.edge_samples)
        self._to_drop = lead

    def feed(self, block: Tensor) -> Iterator[list[Chunk]]:
        """Take the next block, shape (C, n), and yield the batches of chunks that it completes."""
        for chunk in self._chunker.feed(block):
            self._gathered.append(chunk)
            if len(self._gathered) == self._size:
                self._size = next(self._sizes)
                yield self._take_gathered()

    def end(self) -> Iterator[list[Chunk]]:
        """Yield the last batch, if there is any."""
        self._gathered += self._chunker.flush()
        if self._gathered:
            yield self._take_gathered()

    def _take_gathered(self) -> list[Chunk]:
        batch, self._gathered = self._gathered, []
        return batch

    def add(self, chunk: Chunk, stems: Tensor) -> None:
        """Join a chunk's stems, shape (S, C, n), to those before it."""
        for piece in self._joiner.add(chunk.start, stems):
            self._push(piece)

    def flush(self) -> None:
        """Hand over what waited for a next chunk, at the end."""
        rest = self._joiner.flush()
        if rest is not None:
            self._push(rest)

    def _push(self, piece: Tensor) -> None:
        dropped = min(self._to_drop, piece.shape[-1])
        self._to_drop -= dropped
        self.ready.push(piece[..., dropped:])


class Lanes:
    """Runs of the same song, averaged. One lane is usual.

    A few batches of chunks are under way at any time; what they give is taken in the order of the
    song.
    """

    def __init__(self, lanes: Sequence[Lane], stems: int) -> None:
        """Put runs side by side.

        Args:
            lanes: At least one.
            stems: How many come out.
        """
        self._lanes = lanes
        self._stems = stems
        self._workers = Workers(lanes[0].network.workers)
        self._depth = max(self._workers.depth, int(lanes[0].network.is_ahead))
        self._under_way: deque[tuple[Lane, list[Chunk], Future[Callable[[], Iterator[Tensor]]]]] = (
            deque()
        )

    def feed(self, block: Tensor) -> Iterator[Tensor]:
        """Take the next block, shape (C, n), and yield finished stems, shape (S, C, m)."""
        for lane in self._lanes:
            for batch in lane.feed(block):
                self._begin(lane, batch)
                yield from self._collect(self._depth)

    def flush(self) -> Iterator[Tensor]:
        """Yield what is left, at the end."""
        for lane in self._lanes:
            for batch in lane.end():
                self._begin(lane, batch)
        yield from self._collect(0)
        for lane in self._lanes:
            lane.flush()
        yield from self._take()

    def close(self) -> None:
        """Stop all that is under way."""
        self._workers.close()

    def _begin(self, lane: Lane, batch: list[Chunk]) -> None:
        future = self._workers.submit(lane.network.begin, [chunk.samples for chunk in batch])
        self._under_way.append((lane, batch, future))

    def _collect(self, most: int) -> Iterator[Tensor]:
        """Yield stems until no more than `most` batches are under way."""
        while len(self._under_way) > most:
            lane, batch, future = self._under_way.popleft()
            for chunk, stems in zip(batch, wait_for(future)(), strict=True):
                lane.add(chunk, stems)
                yield from self._take()

    def _take(self) -> Iterator[Tensor]:
        while count := min(lane.ready.head for lane in self._lanes):
            pieces = [lane.ready.pop(count) for lane in self._lanes]
            if len(pieces) == 1:
                yield pieces[0]
                continue
            average = torch.zeros(self._stems, *pieces[0].shape[1:])
            for lane, piece in zip(self._lanes, pieces, strict=True):
                average.index_add_(0, lane.network.places, lane.shares * piece)
            yield average
