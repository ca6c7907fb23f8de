"""`stemsplit eval` beside museval: whole commands on the same songs, and the largest difference.

    python benchmarks/evaluate.py [--tracks 4] [--seconds 60] [--jobs N]

Four true stems of stempeg's excerpt in 16 bits, and what leaks and saturation make of them, as wav.
Both read the files, score all four stems together and write museval's JSON; museval does one track
after the other, as its own loop does, with as many threads as numpy takes. stemsplit also scores
the accompaniment, and writes its report.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from peers import python_of
from songs import run_apart, write_stems

STEMS = ("drums", "bass", "other", "vocals")
RATE = 44100
THEIRS = """
import sys, museval, soundfile, warnings
from pathlib import Path
warnings.simplefilter("ignore")
data, heard, out, *stems = sys.argv[1:]
for track in sorted(Path(data, "test").iterdir()):
    read = lambda folder: [soundfile.read(folder / f"{stem}.wav")[0] for stem in stems]
    scores = museval.evaluate(read(track), read(Path(heard, track.name)))
    store = museval.TrackStore(track_name=track.name)
    kinds = ("SDR", "ISR", "SIR", "SAR")
    for place, stem in enumerate(stems):
        values = {kind: scores[at][place].tolist() for at, kind in enumerate(kinds)}
        store.add_target(stem, values)
    Path(out).mkdir(exist_ok=True)
    store.save(Path(out, f"{track.name}.json"))
"""


def write_songs(folder: Path, tracks: int, seconds: float) -> None:
    """Write `data/test/song N/STEM.wav` and `heard/song N/STEM.wav`."""
    write_stems(folder / "stems.npz", len(STEMS), seconds)
    stems = np.load(folder / "stems.npz")
    for kind, place in (("true", "data/test"), ("heard", "heard")):
        for track in range(tracks):
            song = folder / place / f"song {track}"
            song.mkdir(parents=True)
            for stem, samples in zip(STEMS, stems[kind], strict=True):
                # Each song begins elsewhere.
                turned = np.roll(samples, track * RATE, axis=0)
                soundfile.write(song / f"{stem}.wav", turned, RATE, subtype="PCM_16")
    (folder / "stems.npz").unlink()


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds and its peak in MiB."""
    began_s = time.perf_counter()
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(running.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command[:4])} ... failed")
    return time.perf_counter() - began_s, usage.ru_maxrss / 1024


def read_scores(path: Path) -> dict[str, np.ndarray]:
    """Return a file's numbers by stem. Shape: (frames, measures)."""
    told = json.loads(path.read_text())
    kinds = ("SDR", "ISR", "SIR", "SAR")
    return {
        target["name"]: np.array(
            [[frame["metrics"][kind] for kind in kinds] for frame in target["frames"]]
        )
        for target in told["targets"]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracks", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--jobs", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_apart(write_songs, folder, options.tracks, options.seconds)
        data, heard = str(folder / "data"), str(folder / "heard")
        ours = [sys.executable, "-m", "stemsplit", "eval", "--root", data, "--estimates", heard]
        ours += ["-o", str(folder / "ours"), "--quiet"]
        ours += [] if options.jobs is None else ["--jobs", str(options.jobs)]
        theirs = [python_of("museval"), "-c", THEIRS, data, heard, str(folder / "theirs"), *STEMS]
        print(f"{'':10} {'s':>8} {'peak MiB':>10}")
        for who, command in (("stemsplit", ours), ("museval", theirs)):
            seconds, mebibytes = measure(command)
            print(f"{who:10} {seconds:8.2f} {mebibytes:10.0f}")
        largest = 0.0
        for path in sorted((folder / "theirs").glob("*.json")):
            our = read_scores(folder / "ours" / "test" / path.name)
            for stem, values in read_scores(path).items():
                largest = max(largest, float(np.nanmax(np.abs(our[stem] - values))))
        print(f"largest difference: {largest:.2g} dB, in {options.tracks} tracks")


if __name__ == "__main__":
    main()
