"""Excerpts of songs, batch by batch, read ahead by threads.

Threads, not processes: reading and decoding let go of Python's lock, nothing is copied from one
process to another, and the files' headers are parsed once (benchmarks/loader.py).

Letters in shapes: B items of a batch, S stems, C channels, T samples.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemsplit.datasets import Dataset, Index, Track, TrackIndex, read_excerpt
from stemsplit.datasets.excerpts import read_info
from stemsplit.errors import UnknownNameError, UsageError
from stemsplit.evaluation.pairing import ACCOMPANIMENT, VOCALS
from stemsplit.models.base import SpectralModel, StemModel
from stemsplit.training.sampling import SILENT, DataConfig, Place, Sampler, TrackRanges

BATCHES_AHEAD = 2
"""How many batches are read while one is trained on."""


class Excerpts(NamedTuple):
    """A batch, before augmentation; the mixture is made after it.

    Attributes:
        stems: The data set's, in order. Shape (B, S, C, T).
        where: For each item and stem, where it comes from.
    """

    stems: Tensor
    where: tuple[tuple[Place, ...], ...]


class ExcerptLoader:
    """The batches of an epoch; iterating gives those of the epoch that was set last.

    Batch b of an epoch holds the same items whatever `world` and the number of threads: rank r of n
    has items (b n + r) B to (b n + r + 1) B. What does not fill a batch of every rank is left out.

    Attributes:
        sampler: Decides what the items are.
        tracks: Those that `Excerpts.where` counts.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        sampler: Sampler,
        batch: int,
        channels: int,
        *,
        rank: int = 0,
        world: int = 1,
        pin_memory: bool = False,
    ) -> None:
        """Hold what an epoch is made of; no file is opened yet.

        Args:
            tracks: In the order of the sampler's.
            sampler: Decides what the items are.
            batch: B, items of a batch of one rank.
            channels: C, what a network sees.
            rank: Of this process, from 0.
            world: How many processes share an epoch.
            pin_memory: Whether batches are to lie where a GPU copies from while it computes.

        Raises:
            UsageError: An epoch does not make one batch.
        """
        self.tracks = tuple(tracks)
        self.sampler = sampler
        self.batch = batch
        self.channels = channels
        self.rank = rank
        self.world = world
        self.pin_memory = pin_memory
        self.epoch = 0
        self.start_batch = 0
        self._pool: ThreadPoolExecutor | None = None
        if len(self) < 1:
            raise UsageError(
                f"an epoch of {len(sampler)} excerpts does not make a batch of {batch}"
                + (f" for each of {world} processes" if world > 1 else ""),
                help="choose smaller batches with --set training.batch=..., or more excerpts with "
                "--set data.samples_per_track=....",
            )

    def __len__(self) -> int:
        """Return how many batches a whole epoch has."""
        return len(self.sampler) // (self.batch * self.world)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose what the next iteration gives.

        Args:
            epoch: From 0.
            start_batch: How many of its batches to leave out: what a run had done before it was
                interrupted. It holds for one iteration.
        """
        self.epoch = epoch
        self.start_batch = start_batch

    def __iter__(self) -> Iterator[Excerpts]:
        """Read the epoch's batches in order, some of them ahead."""
        epoch, numbers = self.epoch, range(self.start_batch, len(self))
        self.start_batch = 0
        if self.sampler.config.workers == 0:
            for number in numbers:
                pending = self._begin(epoch, number, None)
                yield Excerpts(*pending[:2])
            return
        waiting: deque[Pending] = deque()
        try:
            for number in numbers:
                waiting.append(self._begin(epoch, number, self._open_pool()))
                if len(waiting) > BATCHES_AHEAD:
                    yield _finish(waiting.popleft())
            while waiting:
                yield _finish(waiting.popleft())
        finally:
            for _, _, readers in waiting:
                for reader in readers:
                    reader.cancel()

    def close(self) -> None:
        """Let the reading threads end."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def list_items(self, number: int) -> range:
        """Return which items of an epoch this rank has in a batch."""
        first = (number * self.world + self.rank) * self.batch
        return range(first, first + self.batch)

    def _open_pool(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.sampler.config.workers, "excerpts")
        return self._pool

    def _begin(self, epoch: int, number: int, pool: ThreadPoolExecutor | None) -> Pending:
        """Read a batch, or have it read by threads, each stem of each item by itself."""
        where = tuple(self.sampler.draw(epoch, item) for item in self.list_items(number))
        sampler = self.sampler
        stems = torch.empty(
            (self.batch, len(sampler.stems), self.channels, sampler.excerpt),
            dtype=torch.float32,
            pin_memory=self.pin_memory,
        )
        slots = stems.numpy()
        readers = []
        for item, places in enumerate(where):
            for index, (stem, place) in enumerate(zip(sampler.stems, places, strict=True)):
                if pool is None:
                    self._read(slots[item, index], stem, place)
                else:
                    readers.append(pool.submit(self._read, slots[item, index], stem, place))
        return Pending(stems, where, readers)

    def _read(self, slot: NDArray[np.float32], stem: str, place: Place) -> None:
        """Read one excerpt of one stem to where it belongs. Shape (C, T)."""
        if place.track == SILENT:
            slot[:] = 0
            return
        file = self.tracks[place.track].stems[stem]
        samples = read_excerpt(file, place.start, slot.shape[1])
        # One channel is heard on all; several are one channel's mean.
        slot[:] = samples.mean(axis=0) if len(slot) == 1 else samples


class Pending(NamedTuple):
    """A batch that is being read.

    Attributes:
        stems: What is filled.
        where: See `Excerpts`.
        readers: What fills it.
    """

    stems: Tensor
    where: tuple[tuple[Place, ...], ...]
    readers: list[Future[None]]


def _finish(pending: Pending) -> Excerpts:
    """Wait for a batch; raises what a reader raised."""
    for reader in pending.readers:
        reader.result()
    return Excerpts(pending.stems, pending.where)


def make_loader(
    dataset: Dataset,
    index: Index,
    config: DataConfig,
    *,
    excerpt: int,
    leads: Sequence[str] = (),
    batch: int,
    channels: int,
    sample_rate: int,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    pin_memory: bool = False,
) -> ExcerptLoader:
    """Return the batches of the training split.

    Args:
        dataset: What there is.
        index: What is known of it.
        config: What an epoch is made of.
        excerpt: T, see `count_excerpt`.
        leads: The stems that are learned; names that the data set does not have, such as
            "accompaniment", are left out, and all stems lead where none remains.
        batch: B, items of a batch of one process.
        channels: The model's.
        sample_rate: The model's, Hz.
        seed: Of the run.
        rank: Of this process, from 0.
        world: How many processes share an epoch.
        pin_memory: See `ExcerptLoader`.

    Raises:
        UsageError: Tracks that do not fit the model, to learn from or to judge by; no track, or an
            epoch without a batch.
        UnknownNameError: A way to mix that does not exist.
    """
    for track in dataset.select("train", "valid"):
        _check_track(track, index.tracks[track.name], sample_rate, channels)
    tracks = dataset.select("train")
    ranges = []
    for track in tracks:
        known = index.tracks[track.name]
        is_searched = all(stem in known.activity for stem in dataset.stems)
        active = known.activity if is_searched else None
        ranges.append(TrackRanges(track.name, known.samples, active))
    there = [stem for stem in leads if stem in dataset.stems]
    sampler = Sampler(ranges, dataset.stems, excerpt, config, leads=there, seed=seed)
    return ExcerptLoader(
        tracks, sampler, batch, channels, rank=rank, world=world, pin_memory=pin_memory
    )


def count_excerpt(model: StemModel, config: DataConfig, *, centred: bool = True) -> int:
    """Return T: how many samples an excerpt has.

    Args:
        model: The network.
        config: `excerpt_s` is read.
        centred: The loss's: frames that are not centred need a window more to be as many.
    """
    if config.excerpt_s:
        return max(1, round(config.excerpt_s * model.sample_rate))
    window = 0 if centred or not isinstance(model, SpectralModel) else model.n_fft
    return model.chunk.samples + window


def _check_track(track: Track, known: TrackIndex, sample_rate: int, channels: int) -> None:
    """Refuse a track that the model cannot learn from, or be judged by."""
    if known.sample_rate != sample_rate:
        raise UsageError(
            f"the track {track.name!r} has {known.sample_rate} Hz, and the model {sample_rate} Hz",
            help=f"bring the data to that rate: stemsplit prepare --sample-rate {sample_rate}.",
        )
    there = known.channels
    if track.split == "valid" and track.mixture is not None:
        # Published mixtures are heard there; for training, the stems are mixed.
        there = max(there, read_info(track.mixture).channels)
    if there not in (1, channels) and channels != 1:
        raise UsageError(
            f"the track {track.name!r} has {there} channels, and the model {channels}",
            help="give files of one or two channels, or train a model of one channel.",
        )


def select_stems(
    stems: Tensor, names: Sequence[str], wanted: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Mix the stems, and return those that are learned.

    Args:
        stems: Shape (B, S, C, T).
        names: S, what they are.
        wanted: W, names among them; "no_<stem>" is the mixture without that stem, and
            "accompaniment" the mixture without the vocals, as in `stemsplit.evaluation`.

    Returns:
        The mixture, the sum of all `names`. Shape (B, C, T).
        The stems in the order of `wanted`. Shape (B, W, C, T).

    Raises:
        UnknownNameError: A name that is none of these.
        UsageError: A rest that these stems do not have.
    """
    chosen = [stems[:, _find_parts(name, names)].sum(dim=1) for name in wanted]
    return stems.sum(dim=1), torch.stack(chosen, dim=1)


def _find_parts(name: str, names: Sequence[str]) -> list[int]:
    """Return which stems a wanted one is the sum of.

    They are summed: taken from the mixture, differences would leave a rounding error.
    """
    if name in names:
        return [names.index(name)]
    left_out = VOCALS if name == ACCOMPANIMENT else name.removeprefix("no_")
    if left_out not in names:
        if name == ACCOMPANIMENT:
            raise UsageError(
                f"{name!r} is the mixture without {VOCALS!r}, and the data set has "
                f"{', '.join(names)}",
                help=f"name what is to be left out, such as no_{names[0]}.",
            )
        raise UnknownNameError("stem of the data set", name, names)
    rest = [place for place, other in enumerate(names) if other != left_out]
    if not rest:
        raise UsageError(
            f"nothing is left of the mixture without {left_out!r}, the data set's only stem",
            help="give a data set of several stems.",
        )
    return rest
