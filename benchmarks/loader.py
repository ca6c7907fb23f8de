"""Excerpts per second from disk: this loader beside musdb's own, on the same wav files.

    python benchmarks/loader.py [--root MUSDB18HQ] [--workers 4] [--batches 20] [--rounds 3]

Without --root, noise of the layout of MUSDB18-HQ is written first. An item is what Open-Unmix
trains on: 6 s of each of four stems, each from a track and a place drawn at random. The rows:

threads      stemsplit.training.loader as it is
processes    the same items, read by a torch DataLoader's processes
musdb        musdb.DB(is_wav=True), whose tracks are given chunk_start and chunk_duration, as Open-
             Unmix does, in a torch DataLoader's processes; it starts ffmpeg and ffprobe for each

All have the same number of workers and batches of the same size. Files are read once before, so
that the disk is out of it. The row of musdb is left out where the package or ffprobe is missing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stemsplit.datasets import open_dataset, open_index
from stemsplit.training.loader import ExcerptLoader, make_loader
from stemsplit.training.sampling import DataConfig

RATE = 44100
EXCERPT_S = 6.0
STEMS = ("drums", "bass", "other", "vocals")


def write_songs(root: Path, tracks: int, seconds: float) -> None:
    """Write noise as a folder of MUSDB18-HQ is laid out."""
    dice = np.random.default_rng(0)
    for number in range(tracks):
        folder = root / "train" / f"Somebody - Song {number}"
        folder.mkdir(parents=True)
        stems = 0.1 * dice.standard_normal((4, round(seconds * RATE), 2), np.float32)
        for stem, samples in zip(STEMS, stems, strict=True):
            soundfile.write(folder / f"{stem}.wav", samples, RATE, "PCM_16")
        soundfile.write(folder / "mixture.wav", stems.sum(0), RATE, "PCM_16")


class Items(Dataset[Tensor]):
    """The loader's items one by one, for processes. Shape (S, C, T)."""

    def __init__(self, loader: ExcerptLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        """Return how many an epoch has."""
        return len(self.loader.sampler)

    def __getitem__(self, item: int) -> Tensor:
        """Read one."""
        loader = self.loader
        stems = torch.empty(4, 2, loader.sampler.excerpt)
        places = loader.sampler.draw(0, item)
        for slot, stem, place in zip(stems.numpy(), STEMS, places, strict=True):
            loader._read(slot, stem, place)
        return stems


class MusdbItems(Dataset[Tensor]):
    """Random excerpts by the musdb package. Shape (S, C, T)."""

    def __init__(self, root: Path, count: int) -> None:
        musdb = importlib.import_module("musdb")
        self.tracks = musdb.DB(root=str(root), is_wav=True, subsets="train").tracks
        self.count = count

    def __len__(self) -> int:
        """Return how many an epoch has."""
        return self.count

    def __getitem__(self, item: int) -> Tensor:
        """Read one."""
        dice = random.Random(item)
        stems = []
        for stem in STEMS:
            track = dice.choice(self.tracks)
            source = track.sources[stem]
            source.chunk_duration = EXCERPT_S
            source.chunk_start = dice.uniform(0, track.duration - EXCERPT_S)
            stems.append(torch.as_tensor(source.audio.T, dtype=torch.float32))
        return torch.stack(stems)


def run_threads(loader: ExcerptLoader) -> Iterator[Tensor]:
    for batch in loader:
        yield batch.stems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="MUSDB18-HQ; noise where it is left out")
    parser.add_argument("--tracks", type=int, default=8, help="of noise")
    parser.add_argument("--seconds", type=float, default=60, help="of each track of noise")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = options.root
        if root is None:
            root = Path(name)
            write_songs(root, options.tracks, options.seconds)
        measure(root, options)


def measure(root: Path, options: argparse.Namespace) -> None:
    """Run all rows in turn, and print the medians of the rounds."""
    count = options.batch * options.batches
    dataset = open_dataset(root, stems=STEMS)
    tracks = len(dataset.select("train"))
    config = DataConfig(
        excerpt_s=EXCERPT_S, samples_per_track=-(-count // tracks), workers=options.workers
    )
    loader = make_loader(
        dataset,
        open_index(dataset),
        config,
        excerpt=round(EXCERPT_S * RATE),
        batch=options.batch,
        channels=2,
        sample_rate=RATE,
    )

    def in_processes(items: Dataset[Tensor]) -> Callable[[], Iterator[Tensor]]:
        return lambda: iter(
            DataLoader(items, options.batch, num_workers=options.workers, drop_last=True)
        )

    rows = {"threads": lambda: run_threads(loader), "processes": in_processes(Items(loader))}
    if importlib.util.find_spec("musdb") is None or shutil.which("ffprobe") is None:
        print("musdb is left out: it needs the package musdb, and ffmpeg and ffprobe on PATH")
    else:
        rows["musdb"] = in_processes(MusdbItems(root, count))
    for path in root.rglob("*.wav"):
        path.read_bytes()
    rates: dict[str, list[float]] = {row: [] for row in rows}
    for _ in range(options.rounds):
        for row, begin in rows.items():
            began = time.perf_counter()
            batches = [len(batch) for batch in itertools.islice(begin(), options.batches)]
            rates[row].append(sum(batches) / (time.perf_counter() - began))
    loader.close()
    first = statistics.median(rates["threads"])
    print(f"{tracks} tracks, {options.workers} workers, batches of {options.batch}")
    print(f"{'':10} {'excerpts/s (min/median/max)':>30} {'of ours':>8}")
    for row, made in rates.items():
        middle = statistics.median(made)
        print(f"{row:10} {min(made):10.1f} {middle:9.1f} {max(made):9.1f} {middle / first:8.3f}")


if __name__ == "__main__":
    main()
