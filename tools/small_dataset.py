"""Make a small data set from nothing: songs of drums, bass, chords and a singing-like lead.

    python tools/small_dataset.py -o small --tracks 12 --seconds 20

writes small/{train,valid,test}/NAME/{mixture,drums,bass,other,vocals}.wav. Every song has a key, a
tempo, a pattern and sounds of its own. The same seed gives the same songs with the same numpy, and
song n is the same however many there are. It is no music, but what one stem has to be told from
another by is there: noise and sweeps, low saws, chords from both sides, formants that move.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from synthesis import MAKERS, SCALES, Signal, Song, swell

from stemsplit.audio import StemWriter, parse_format

PEAK = 0.9
NAMES = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
# Steps of the scale that the chords of four bars stand on.
PROGRESSIONS = ((0, 4, 5, 3), (5, 3, 0, 4), (0, 5, 3, 4), (0, 3, 4, 3), (0, 2, 3, 4), (0, 6, 5, 6))


def compose(seed: int, number: int, rate: int, seconds: float) -> Song:
    """Draw a song's key, tempo and chords."""
    dice = np.random.default_rng([seed, number])
    return Song(
        rate=rate,
        samples=round(rate * seconds),
        root=int(dice.integers(40, 52)),
        mode=str(dice.choice(list(SCALES))),
        tempo=int(dice.integers(78, 146)),
        chords=PROGRESSIONS[dice.integers(len(PROGRESSIONS))],
    )


def make_song(song: Song, seed: int, number: int) -> dict[str, Signal]:
    """Return the stems, at levels of their own, with two-bar pauses here and there.

    Neither a stem nor their sum goes beyond 0.9. Shape of each: (2, samples).
    """
    stems: dict[str, Signal] = {}
    section = 32 * song.step
    for index, (stem, make) in enumerate(MAKERS.items()):
        dice = np.random.default_rng([seed, number, index])
        sound = make(song, dice)
        for start in range(section, song.samples - section, section):
            if dice.random() < 0.15:
                fade = swell(section, song.rate // 50, song.rate // 50)
                sound[:, start : start + section] *= 1 - fade
        sound *= 10 ** (dice.uniform(-4, 4) / 20) / np.sqrt(np.mean(sound**2))
        stems[stem] = sound
    loudest = max(float(np.abs(sound).max()) for sound in [*stems.values(), sum(stems.values())])
    return {stem: sound * PEAK / loudest for stem, sound in stems.items()}


def choose_split(number: int, tracks: int) -> str:
    """Return what a song is for: a sixth each, and at least one, for validation and the test."""
    share = max(1, tracks // 6)
    if number < tracks - 2 * share:
        return "train"
    return "valid" if number < tracks - share else "test"


def write_song(number: int, *, out: Path, tracks: int, seconds: float, seed: int, rate: int) -> str:
    """Make one song and write it in 16 bits; the mixture is the exact sum of what is written."""
    song = compose(seed, number, rate, seconds)
    name = f"{number + 1:03} in {NAMES[song.root % 12]} {song.mode} at {song.tempo}"
    folder = out / choose_split(number, tracks) / name
    stems = {
        stem: np.round(sound * 2**15).astype(np.float32) / np.float32(2**15)
        for stem, sound in make_song(song, seed, number).items()
    }
    mixture = np.sum([*stems.values()], axis=0, dtype=np.float32)
    for stem, sound in {**stems, "mixture": mixture}.items():
        path, wav = folder / f"{stem}.wav", parse_format("wav", 16)
        with StemWriter(path, sample_rate=rate, channels=2, format=wav) as writer:
            writer.write(sound)
    return f"{folder.parent.name}/{name}"


def main(argv: Sequence[str] | None = None) -> int:
    """Write a data set as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--tracks", type=int, default=12, help="at least 3")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each; at least 2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample-rate", type=int, default=44100)
    parser.add_argument("-j", "--jobs", type=int, default=1, help="songs at the same time")
    asked = parser.parse_args(argv)
    if asked.tracks < 3 or asked.seconds < 2 or asked.sample_rate < 8000 or asked.jobs < 1:
        parser.error("at least 3 tracks of 2 seconds at 8000 Hz, and 1 job")
    if asked.out.exists():
        parser.error(f"{asked.out} is there already: name a new folder")
    write = partial(
        write_song,
        out=asked.out,
        tracks=asked.tracks,
        seconds=asked.seconds,
        seed=asked.seed,
        rate=asked.sample_rate,
    )
    numbers = range(asked.tracks)
    if asked.jobs == 1:
        for number in numbers:
            print(write(number), flush=True)
        return 0
    with ProcessPoolExecutor(asked.jobs) as pool:
        for name in pool.map(write, numbers):
            print(name, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
