"""A song's way through one network or several, in chunks, and the average of what comes out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stemsplit.backends.workers import Workers, wait_for
from stemsplit.dsp.overlap_add import Chunk, Chunker, Joiner, SampleQueue

if TYPE_CHECKING:
    from stemsplit.separation.framed_network import FramedNetwork


class Lane:
    """One run of the song through one network."""

    def __init__(self, network: FramedNetwork, lead: int, weight: float) -> None:
        """Begin a run.

        Args:
            network: What the chunks go through.
            lead: Zeros before the song, in samples, which move all of its chunks.
            weight: How much this run counts.
        """
        framing = network.framing
        self.network = network
        self.shares = weight * network.shares[:, None, None]
        self.ready = SampleQueue()
        self.chunker = Chunker(
            framing.chunk_samples, framing.overlap_samples, lead, framing.grid_samples
        )
        self._joiner = Joiner(framing.overlap_samples, framing.edge_samples)
        self._to_drop = lead

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

    A few chunks are under way at any time; their results are taken in the order of the song.
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
        self._under_way: deque[tuple[Lane, Chunk, Future[Callable[[], Tensor]]]] = deque()

    def feed(self, block: Tensor) -> Iterator[Tensor]:
        """Take the next block, shape (C, n), and yield finished stems, shape (S, C, m)."""
        for lane in self._lanes:
            for chunk in lane.chunker.feed(block):
                self._begin(lane, chunk)
                yield from self._collect(self._depth)

    def flush(self) -> Iterator[Tensor]:
        """Yield what is left, at the end."""
        for lane in self._lanes:
            for chunk in lane.chunker.flush():
                self._begin(lane, chunk)
        yield from self._collect(0)
        for lane in self._lanes:
            lane.flush()
        yield from self._take()

    def close(self) -> None:
        """Stop all that is under way."""
        self._workers.close()

    def _begin(self, lane: Lane, chunk: Chunk) -> None:
        future = self._workers.submit(lane.network.begin, chunk.samples)
        self._under_way.append((lane, chunk, future))

    def _collect(self, most: int) -> Iterator[Tensor]:
        """Yield stems until no more than `most` chunks are under way."""
        while len(self._under_way) > most:
            lane, chunk, future = self._under_way.popleft()
            lane.add(chunk, wait_for(future)())
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
