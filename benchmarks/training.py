"""Train every architecture, made small, until it separates songs that it has never heard.

python benchmarks/training.py -o DIR                     all of them, some minutes each on two cores
python benchmarks/training.py -o DIR --arch umx bsrnn    these

Each learns by its own recipe (loss, optimiser, augmentation), with fewer features, on synthetic
songs and on the first four seconds of stempeg's real excerpt; it is opened from its run folder as a
published model is, and scored by `stemsplit eval` on other synthetic songs and on the excerpt's
last two seconds. Beside it stands the best that needs no network: the mixture, turned down for each
track and stem by the gain that gives the highest uSDR, which only one who knows the answer can do.
A run folder that is there is scored, not trained again.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import soundfile
import torch
from songs import find_excerpt

from stemsplit.audio import decode_blocks
from stemsplit.datasets import AudioFile, Dataset, open_dataset, read_excerpt
from stemsplit.training.loader import select_stems

GENERATOR = Path(__file__).parents[1] / "tools" / "small_dataset.py"
STREAMS = {"drums": 1, "bass": 2, "other": 3, "vocals": 4}
LEARNED_S, HEARD_S = 4.0, 6.0
SYNTHETIC_TRACKS, SYNTHETIC_S = 16, 20
RATE = 22050
EPOCHS = 5

ALL = (
    f"model.sample_rate={RATE}",
    "data.samples_per_track=64",
    "training.batch=4",
    "training.precision=32",
    "training.keep=1",
    "training.ema_decay=0",
    "training.min_epochs=0",
    "training.patience=0",
    "schedule.name=constant",
    "optimiser.lr=3e-3",
    "validation.excerpts=3",
    "validation.scores_every=1000",
)
UNET = (
    "model.config.n_fft=1024",
    "model.config.hop_length=512",
    "model.config.segment_frames=64",
    "model.config.width=8",
    "model.config.layers=3",
    "model.config.blocks=5",
)
UMX = (
    "model.config.n_fft=2048",
    "model.config.hop_length=512",
    "model.config.bandwidth_hz=11000",
    "data.excerpt_s=3",
)
D3NET = (
    "model.config.n_fft=1024",
    "model.config.hop_length=512",
    "model.config.seen_bins=512",
    "model.config.chunk_frames=64",
    "data.excerpt_s=1.5",
    "loss.frames=0",
    "model.config.nets=[{splits=[128], final_growth=8, final_layers=3, patch_frames=64, bands=["
    "{first=8, growth=[6, 8, 6], layers=[3, 3, 3], blocks=2}, "
    "{first=4, growth=[2, 2, 2], layers=[1, 1, 1], blocks=1}], "
    "full={first=8, growth=[4, 6, 8, 6, 4], layers=[3, 3, 3, 3, 3], blocks=2}}]",
)
BSRNN = (
    "model.config.n_fft=1024",
    "model.config.hop_length=256",
    "model.config.frames=129",
    "model.config.splits=[[[1000, 100], [4000, 500], [10000, 1500]]]",
    "model.config.width=32",
    "model.config.hidden_size=32",
    "model.config.mask_hidden_size=64",
    "model.config.layers=3",
)
CONDITIONED = (*UNET, "training.batch=2")
SPLEETER = ("model.config.segment_frames=64", "model.config.widths=[8, 16, 32, 48, 64, 96]")
SMALL: Mapping[str, tuple[int, Sequence[str]]] = {
    "umx": (500, (*UMX, "model.config.hidden_size=128")),
    "x-umx": (1000, (*UMX, "model.config.hidden_size=96")),
    "d3net": (300, D3NET),
    "unet-tfc": (300, UNET),
    "unet-tdf": (1500, UNET),
    "unet-tdc": (500, UNET),
    "unet-tdc-rnn": (300, UNET),
    "unet-tfc-tdf": (800, UNET),
    "unet-tfc-tdf-magnitude": (300, UNET),
    "unet-tfc-tdf-complex-mask": (300, UNET),
    "cunet-film": (300, CONDITIONED),
    "cunet-film-tdf": (300, CONDITIONED),
    "cunet-film-lasaft": (300, CONDITIONED),
    "cunet-gpocm": (300, CONDITIONED),
    "cunet-gpocm-tdf": (300, CONDITIONED),
    "lasaft": (300, CONDITIONED),
    "lightsaft": (300, CONDITIONED),
    "bsrnn": (500, BSRNN),
    "spleeter": (300, SPLEETER),
}
"""By recipe: how many steps, and what is made smaller."""
ONE_STEM = ("umx", "d3net")
"""Whose stems have networks each: the vocals' is enough."""


def make_data(folder: Path) -> Path:
    """Return songs to learn from and to be scored on, made and prepared unless they are there."""
    prepared = folder / "songs"
    raw = folder / "raw"
    make = ["--tracks", str(SYNTHETIC_TRACKS), "--seconds", str(SYNTHETIC_S)]
    if not raw.is_dir():
        subprocess.run([sys.executable, str(GENERATOR), "-o", str(raw), *make], check=True)
    for split, start_s, end_s in (("train", 0.0, LEARNED_S), ("test", LEARNED_S, HEARD_S)):
        track = raw / split / f"Falcon 69 from {start_s:g} s"
        track.mkdir(parents=True, exist_ok=True)
        for stem, stream in STREAMS.items():
            with decode_blocks(
                find_excerpt(), stream=stream, start_s=start_s, duration_s=end_s - start_s
            ) as blocks:
                samples = np.concatenate(list(blocks), axis=1)
            soundfile.write(track / f"{stem}.wav", samples.T, 44100, subtype="PCM_16")
    rate = ["--sample-rate", str(RATE), "--statistics", "2048:512", "--statistics", "1024:512"]
    run_stemsplit("prepare", "--root", raw, "-o", prepared, "--quiet", *rate)
    return prepared


def run_stemsplit(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "stemsplit", *map(str, words)], check=True)


def score_gains(dataset: Dataset, stems: Sequence[str]) -> dict[tuple[str, str], float]:
    """Return uSDR of the mixture at its best gain, by track and stem.

    The best gain leaves what is orthogonal to the mixture: 1 / (1 - r^2), r their correlation.
    """
    scores = {}
    for track in dataset.select("test"):
        whole = torch.stack([_read(track.stems[stem]) for stem in dataset.stems]).unsqueeze(0)
        mixture, wanted = select_stems(whole, dataset.stems, stems)
        for stem, true in zip(stems, wanted[0].double(), strict=True):
            both = (true * mixture[0]).sum() ** 2
            share = both / (true.square().sum() * mixture[0].double().square().sum())
            scores[track.name, stem] = float(-10 * (1 - share).log10())
    return scores


def _read(file: AudioFile) -> torch.Tensor:
    return torch.from_numpy(read_excerpt(file, 0, soundfile.info(file.path).frames))


def train(arch: str, root: Path, run: Path) -> float:
    """Train unless that is done, and return the minutes that it took."""
    took = run / "minutes.txt"
    if not took.is_file():
        steps, changes = SMALL[arch]
        changes = (
            *ALL,
            *changes,
            f"training.max_steps={steps}",
            f"training.batches_per_epoch={steps // EPOCHS}",
        )
        stem = ["--stem", "vocals"] if arch in ONE_STEM else []
        sets = [word for change in changes for word in ("--set", change)]
        begins = ["--resume", run] if run.is_dir() else ["--arch", arch, "-o", run, *stem, *sets]
        began = time.perf_counter()
        run_stemsplit("train", "--root", root, "--device", "cpu", *begins)
        took.write_text(f"{(time.perf_counter() - began) / 60:.1f}")
    return float(took.read_text())


def score(root: Path, run: Path, out: Path) -> dict[tuple[str, str], float]:
    """Return uSDR by track and stem, as `stemsplit eval` measures it."""
    run_stemsplit(
        "eval", "--root", root, "-m", run, "-o", out, "--overwrite", "--quiet", "--device", "cpu"
    )
    with (out / "scores.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["measure"] == "uSDR"]
    return {(row["track"], row["stem"]): float(row["value_db"]) for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--arch", nargs="+", choices=SMALL, default=list(SMALL))
    options = parser.parse_args()
    root = make_data(options.out)
    dataset = open_dataset(root)
    lines = ["| recipe | stem | steps | minutes | uSDR dB | best gain dB | real excerpt | its |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for arch in options.arch:
        minutes = train(arch, root, options.out / arch)
        found = score(root, options.out / arch, options.out / f"{arch}-scores")
        stems = list(dict.fromkeys(stem for _, stem in found))
        trivial = score_gains(dataset, stems)
        for stem in stems:
            ours = {track: value for (track, one), value in found.items() if one == stem}
            gains = {track: trivial[track, stem] for track in ours}
            (real,) = [track for track in ours if track.startswith("Falcon")]
            lines.append(
                f"| {arch} | {stem} | {SMALL[arch][0]} | {minutes:.1f} | {fmean(ours.values()):.2f}"
                f" | {fmean(gains.values()):.2f} | {ours[real]:.2f} | {gains[real]:.2f} |"
            )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
